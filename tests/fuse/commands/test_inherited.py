"""What whoever starts wbfs leaves it: signals held back, a full disk for its log, no /proc."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from mounts import WBFS, Mount, run, wait_until
from stand_in import StandIn

FILES = 40
LOG = f"""
import wandb
with wandb.init(project="inherited") as run:
    artifact = wandb.Artifact("data", type="dataset")
    for number in range({FILES}):
        with artifact.new_file(f"folder/{{number}}.txt") as file:
            file.write(str(number))
    run.log_artifact(artifact).wait()
print(run.entity)
"""
CHANGED = """
import os, signal, sys
{what}
os.execvp(sys.argv[1], sys.argv[1:])
"""


def by_python(what: str) -> list[str]:
    """Return what runs a program after a statement of Python's."""
    return [sys.executable, "-c", CHANGED.format(what=what)]


@pytest.fixture(scope="module")
def artifact(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the SDK logged, as entity/project/artifact."""
    return f"{stand_in.run_sdk(LOG, tmp_path_factory.mktemp('home'))}/inherited/data"


MountBy = Callable[..., Mount]


@pytest.fixture
def mount_by(artifact: str, stand_in: StandIn, tmp_path: Path) -> Iterator[MountBy]:
    """Return what mounts by a program that runs wbfs: mount_by(program, log_file=..., **env)."""
    with ExitStack() as mounts:

        def mount(program: Sequence[str] = (), log_file: Path | None = None, **env: str) -> Mount:
            mounted = Mount(
                path=tmp_path / "mount",
                env=stand_in.env(tmp_path / "home") | env,
                cache_dir=tmp_path / "cache",
                log_file=log_file or tmp_path / "log",
                source=artifact,
                program=[*program, *WBFS],
            )
            mounts.callback(mounted.take_down)
            return mounted

        yield mount


def assert_reads(mount: Mount) -> None:
    """Read all that is there."""
    folder = mount.path / "v0/folder"
    read = {path.name: path.read_text() for path in folder.iterdir()}
    assert read == {f"{number}.txt": str(number) for number in range(FILES)}


def test_signals_held_back(
    artifact: str, mount_by: MountBy, stand_in: StandIn, tmp_path: Path
) -> None:
    blocked = by_python("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))")
    mount = mount_by(blocked)
    assert_reads(mount)
    os.kill(mount.pid, signal.SIGTERM)
    wait_until(lambda: not mount.is_alive(), what="the daemon has ended")
    # By a parent that waits for no child, as some supervisors are.
    ignored = by_python("signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    root = tmp_path / "root"
    done = run(*ignored, *WBFS, "get", "--root", root, artifact, env=mount.env)
    assert done.returncode == 0, done.stderr
    assert (root / "folder/7.txt").read_text() == "7"
    done = run(*ignored, *WBFS, "mount", f"{artifact}-no", mount.path, env=mount.env)
    assert done.returncode == 77, done.stderr


def test_a_log_that_its_disk_has_no_room_for(
    mount_by: MountBy, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("64k")
    (disk / "rest").write_bytes(bytes(64 << 10))
    mount = mount_by(log_file=disk / "log")
    assert "Logging error" not in mount.started.stderr
    assert "Traceback" not in mount.started.stderr
    assert_reads(mount)


def test_python_s_own_checks_find_nothing(mount_by: MountBy) -> None:
    mount = mount_by(PYTHONWARNINGS="default::ResourceWarning")
    assert "Warning" not in mount.started.stderr
    assert_reads(mount)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may unmount /proc")
def test_no_proc(stand_in: StandIn, tmp_path: Path) -> None:
    env = stand_in.env(tmp_path / "home")
    # Other tests' mounts are kept by nobody there.
    script = 'umount -a -l -t fuse.wbfs 2>/dev/null; umount -l /proc; exec "$@"'
    without = ["unshare", "--mount", "sh", "-c", script, "-"]
    for words in (("mount", tmp_path), ("umount", tmp_path), ("status",), ("get", "a/b/c")):
        done = run(*without, *WBFS, *words, env=env)
        assert done.returncode == 2
        assert done.stderr == (
            "wbfs: there is no /proc here, which wbfs needs: mount -t proc proc /proc\n"
        )

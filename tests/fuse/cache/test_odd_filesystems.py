"""Cache, state directory and target where chmod, links, exact times or locks are refused."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import odd_filesystem
import pytest
from conftest import Mounter
from mounts import WBFS, run, wait_until
from stand_in import StandIn

from wbfs.model.errors import UsageError
from wbfs.store.folder import prepare_cache

LOG = """
import random
import wandb
with wandb.init(project="odd") as run:
    artifact = wandb.Artifact("data", type="dataset")
    for number in range(40):
        with artifact.new_file(f"folder/{number}.bin", mode="wb") as file:
            file.write(random.Random(number).randbytes(3000))
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(random.Random("large").randbytes(5 << 20))
    run.log_artifact(artifact).wait()
    names = wandb.Artifact("names", type="dataset")
    for name in ("Read.me", "read.me", "one:two", "plain"):
        with names.new_file(f"folder/{name}") as file:
            file.write(name)
    run.log_artifact(names).wait()
print(run.entity)
"""
HABITS = [
    ("chmod=EPERM", "link=EPERM"),
    ("chmod=EOPNOTSUPP", "link=EOPNOTSUPP", "utime=EPERM"),
    ("chmod=ENOSYS", "link=ENOSYS", "second=1", "untold=1"),
]


@pytest.fixture(scope="module")
def artifact(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the SDK logged, as entity/project/artifact."""
    return f"{stand_in.run_sdk(LOG, tmp_path_factory.mktemp('home'))}/odd/data"


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return what mounts a filesystem that refuses: odd("chmod=EPERM")."""
    with ExitStack() as mounts:

        def mount(*habits: str) -> Path:
            disk, path = tmp_path / "disk", tmp_path / "odd"
            disk.mkdir()
            path.mkdir()
            command = [sys.executable, odd_filesystem.__file__, disk, path, *habits]
            process = subprocess.Popen(command)
            mounts.callback(process.wait, 50)
            mounts.callback(run, "fusermount3", "-u", "-z", path)
            wait_until(lambda: os.path.ismount(path), what="the odd filesystem is mounted")
            return path

        yield mount


@pytest.mark.parametrize("habits", HABITS, ids=lambda habits: habits[0])
def test_all_is_cached_and_written(
    artifact: str,
    odd: Callable[..., Path],
    mounter: Mounter,
    stand_in: StandIn,
    tmp_path: Path,
    habits: tuple[str, ...],
) -> None:
    top = odd(*habits)
    (top / "cache").mkdir(mode=0o700)
    files = [f"folder/{number}.bin" for number in range(40)] + ["large.bin"]

    def read_all() -> list[bytes]:
        return [(mount.path / "v0" / name).read_bytes() for name in files]

    # The records of the mounts are there, too.
    (tmp_path / "state").symlink_to(top)
    mount = mounter(artifact, cache=top / "cache")
    contents = read_all()
    check_all(mount.status())
    assert len(list((top / "wbfs/mounts").iterdir())) == 1
    mount.umount()
    stand_in.clear_requests()
    mount = mounter(artifact, cache=top / "cache")
    assert read_all() == contents
    check_all(mount.status())
    assert stand_in.requests(port="files") == []
    env = stand_in.env(tmp_path / "home")
    for text in ("41 written", "41 were right already"):
        done = run(
            *WBFS,
            "get",
            "--root",
            top / "got",
            "--cache-dir",
            tmp_path / "c",
            f"{artifact}:v0",
            env=env,
        )
        assert done.returncode == 0, done.stderr
        assert text in done.stderr
    assert [(top / "got" / name).read_bytes() for name in files] == contents


def test_names_that_a_filesystem_does_not_have(
    artifact: str, odd: Callable[..., Path], stand_in: StandIn, tmp_path: Path
) -> None:
    top = odd("lower=1", "colon=EINVAL")
    command = (*WBFS, "get", "--root", top / "got", "--cache-dir", tmp_path / "c")
    source = f"{artifact.removesuffix('data')}names:v0"
    env = stand_in.env(tmp_path / "home")
    for counted in ("2 written, 2 failed", "0 written, 2 were right already, 2 failed"):
        done = run(*command, source, env=env)
        assert done.returncode == 1
        assert counted in done.stderr
        assert (
            f"wbfs: can't write {top}/got/folder/read.me: its filesystem takes it for"
            " folder/Read.me; download to another place\n" in done.stderr
        )
        assert "folder/one:two: Invalid argument: its filesystem may have no such" in done.stderr
    assert (top / "got/folder/read.me").read_text() == "Read.me"
    assert sorted(os.listdir(top / "got/folder")) == ["plain", "read.me"]


def check_all(status: dict[str, object]) -> None:
    """Check that nothing is said to be amiss with the cache."""
    assert isinstance(status["cache"], dict)
    assert (status["cache"]["state"], status["cache"]["trouble"]) == ("caching", None)
    assert status["defects"] == 0


def test_what_can_not_do_without_is_refused_at_the_start(
    artifact: str, odd: Callable[..., Path], stand_in: StandIn, tmp_path: Path
) -> None:
    top = odd("rename=EPERM")
    (top / "cache").mkdir(mode=0o700)
    place = tmp_path / "place"
    place.mkdir()
    env = stand_in.env(tmp_path / "home")
    done = run(*WBFS, "mount", "--cache-dir", top / "cache", artifact, place, env=env)
    assert done.returncode == 2
    assert done.stderr == (
        f"wbfs: the cache can't be in {top}/cache: its filesystem has no files that are renamed"
        " (Operation not permitted); use --cache-dir, on a local disk for instance\n"
    )
    assert list((top / "cache/partial").iterdir()) == []


@pytest.mark.parametrize("lock", ["flock", "lockf"])
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_filesystem_without_locks_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lock: str, number: int
) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, lock, refuse)
    with pytest.raises(UsageError, match="has no locks"):
        prepare_cache(tmp_path / "cache")
    assert list((tmp_path / "cache/partial").iterdir()) == []


def test_a_target_that_can_not_be_made_is_said_once(
    artifact: str, stand_in: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    done = run(
        *WBFS,
        "get",
        "--root",
        tmp_path / "file",
        f"{artifact}:v0",
        env=stand_in.env(tmp_path / "home"),
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"wbfs: can't download to {tmp_path}/file: Not a directory; choose another directory with"
        " --root\n"
    )

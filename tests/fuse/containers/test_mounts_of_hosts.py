"""A mount that a host makes, in containers that read it: who can, and what they see at its end."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import Mounter
from mounts import WBFS, Mount, check, run
from podman import UNPRIVILEGED, Container, Podman
from training import READ, wait_for

LOST = "Transport endpoint is not connected"
GONE = "No such file or directory"


@pytest.fixture
def mount(mounter: Mounter, shared: Path, contained: str) -> Mount:
    return mounter(contained, path=shared / "mount", options=["--allow-other"])


def test_every_container_reads(podman: Podman, mount: Mount) -> None:
    for options in (
        [],
        [*UNPRIVILEGED, "--read-only"],
        ["--uidmap", "0:100000:65536"],
        ["--user", "1000710000:0"],
    ):
        volume = ["--volume", f"{mount.path}:/data:ro,rslave"]
        done = podman.run("cat", "/data/folder/7.txt", options=[*volume, *options])
        assert (done.returncode, done.stdout) == (0, "content 7"), (options, done.stderr[-500:])
    # Below it, too; and nobody writes, whatever the volume says.
    script = "cat /data/7.txt; touch /data/x || true; df /data"
    volume = ["--volume", f"{mount.path}/folder:/data"]
    done = podman.run("sh", "-c", script, options=volume)
    assert done.stdout.startswith("content 7")
    assert "Read-only file system" in done.stderr


def test_another_user_s_own_containers_read(mounter: Mounter, contained: str) -> None:
    """Those of a user who may do nothing on this host, be it one that nobody knows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir="/tmp")))
        # Those of tests can't be looked into by others.
        folder.chmod(0o755)
        mount = mounter(contained, path=folder / "mount", options=["--allow-other"])
        stack.callback(mount.take_down)
        podman = Podman(user=54321)
        stack.callback(podman.take_down)
        done = podman.run("true")
        if done.returncode != 0:
            pytest.skip(f"podman starts no container of another user's here: {done.stderr.strip()}")
        done = podman.run("cat", "/data/folder/7.txt", options=[f"--volume={mount.path}:/data:ro"])
        assert (done.returncode, done.stdout) == (0, "content 7"), done.stderr


FOLDERS = ("bin", "lib", "lib64")
CHROOT = """
mkdir "$1" "$1/usr" "$1/data"
for one in bin lib lib64; do [ ! -L "/$one" ] || cp -P "/$one" "$1"; done
mount --bind /usr "$1/usr"
mount --rbind "$2" "$1/data"
mount --make-rslave "$1/data"
chroot "$1" /usr/bin/cat /data/mount/folder/7.txt
umount -l "$1/data"
umount "$1/usr"
"""


def test_sandboxes_read(mount: Mount, shared: Path, tmp_path: Path) -> None:
    assert check("sh", "-ec", CHROOT, "sh", tmp_path / "root", shared) == "content 7"
    # Where it is no slave, that would have taken the host's mount down as well.
    assert mount.status()["pid"] == mount.pid
    if not shutil.which("bwrap"):
        pytest.skip("not installed: bubblewrap; scripts/setup does, as root")
    links = [word for one in FOLDERS for word in ("--symlink", f"usr/{one}", f"/{one}")]
    sandbox = ["bwrap", "--ro-bind", "/usr", "/usr", *links, "--ro-bind", mount.path, "/data"]
    for options in (
        [],
        ["--unshare-all"],
        ["--unshare-user", "--uid", "1000", "--cap-drop", "ALL"],
    ):
        assert check(*sandbox, *options, "/usr/bin/cat", "/data/folder/7.txt") == "content 7"


def test_without_allow_other_only_its_user_reads(
    podman: Podman, mounter: Mounter, shared: Path, contained: str
) -> None:
    mount = mounter(contained, path=shared / "mount")
    volume = ["--volume", f"{mount.path}:/data:ro"]
    assert podman.run("cat", "/data/folder/7.txt", options=volume).stdout == "content 7"
    done = podman.run("cat", "/data/folder/7.txt", options=[*volume, "--user=1000"])
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    done = podman.run("true", options=[*volume, "--uidmap=0:100000:65536"])
    assert done.returncode == 126


@pytest.fixture
def training(podman: Podman, mount: Mount, shared: Path) -> Container:
    """Return what reads on and on: by the folder above, the mountpoint, a copy, and a held file."""
    volumes = [f"--volume={shared}:/data:ro,rslave", f"--volume={mount.path}:/alone:ro,rslave"]
    volumes.append(f"--volume={shared}:/copy:ro,rprivate")
    return podman.start(
        "training",
        *(sys.executable, "-u", "-c", READ),
        *("/data/mount/folder/7.txt", "/alone/folder/7.txt", "/copy/mount/folder/7.txt"),
        options=[*volumes, *UNPRIVILEGED, "--read-only"],
    )


def test_a_container_goes_on_with_the_next_daemon(
    mounter: Mounter, mount: Mount, training: Container, contained: str
) -> None:
    wait_for(training, *["content 7"] * 4)
    mount.kill()
    wait_for(training, LOST, LOST, LOST, LOST)
    mounter(contained, path=mount.path, options=["--allow-other"])
    # What was open is lost, and so are a mountpoint that was bound itself and a copy.
    wait_for(training, "content 7", LOST, LOST, LOST)
    assert training.pid


def test_a_container_holds_a_mount_that_is_taken_down(mount: Mount, training: Container) -> None:
    wait_for(training, *["content 7"] * 4)
    done = run(*WBFS, "umount", mount.path, env=mount.env)
    assert done.returncode == 1
    assert f"{mount.path} is in use" in done.stderr
    mount.take_down()
    # Nothing of it stays but what was bound.
    wait_for(training, GONE, LOST, LOST, LOST)

"""Mountpoints: what may be mounted on, and taking a mount down. No mount is asked, but apart."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

from wbfs.daemon.mounts.looking.health import Health, health_of
from wbfs.daemon.mounts.table import Mount, mount_at, mount_of, resolve
from wbfs.model.errors import NoFuse, NotNow, UsageError

COMMAND_TIMEOUT_S = 10.0
FUSE_CONF = Path("/etc/fuse.conf")
_LASTING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG}
"""What is wrong with a place until somebody mends it."""


def prepare_mountpoint(path: Path, *, make: bool) -> None:
    """Check that wbfs can mount at `path`; take down a dead mount of ours that is in the way.

    It is made where it isn't there and `make` says so. Raises UsageError, and NoFuse where nothing
    can be mounted.
    """
    if shutil.which("fusermount3") is None:
        raise NoFuse("fusermount3 is missing: install it (Debian, Ubuntu: apt install fuse3)")
    if not Path("/dev/fuse").exists():
        raise NoFuse(
            "/dev/fuse is missing: the kernel has no FUSE here; in a container, start it with"
            " --device /dev/fuse --cap-add SYS_ADMIN"
        )
    mount = mount_at(path)
    if mount is not None:
        _make_way(path, mount)
    else:
        _refuse_below_what_hangs(path)
    try:
        if make:
            path.mkdir(parents=True, exist_ok=True)
        entries = os.listdir(path)
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist: make it first (mkdir -p {path}), or add --make-dir"
        ) from None
    except (NotADirectoryError, FileExistsError):
        raise UsageError(f"{path} is not a directory: choose a directory to mount on") from None
    except OSError as error:
        # What it is on may be another mount, whose daemon or server comes back.
        kind = UsageError if error.errno in _LASTING else NotNow
        raise kind(f"can't mount on {path}: {error.strerror}") from None
    if entries:
        raise UsageError(
            f"{path} is not empty, and a mount would hide what is in it: choose an empty directory"
        )


def _make_way(path: Path, mount: Mount) -> None:
    """Take down what is mounted there where it is ours and dead.

    Raises NotNow where it is ours and isn't dead, and where it hangs, whosever it is.
    """
    health = health_of(path)
    if not mount.is_ours:
        if health is Health.HANGS:
            raise NotNow(
                f"what is mounted at {path} ({mount.filesystem_type}) does not answer: have whoever"
                " has mounted it take it down, or choose another directory"
            )
        return
    if health is Health.HANGS:
        raise NotNow(
            f"{path} is a mount of wbfs already, whose daemon does not answer: end it with"
            f" wbfs umount --force {path}"
        )
    if health is not Health.DEAD:
        raise NotNow(
            f"{path} is a mount of wbfs already: choose another directory, or unmount it first"
            f" (wbfs umount {path})"
        )
    unmount(path, lazy=True)


def _refuse_below_what_hangs(path: Path) -> None:
    mount = mount_of(path)
    if mount is not None and mount.is_fuse and health_of(mount.mountpoint) is Health.HANGS:
        raise NotNow(
            f"{path} is on what is mounted at {mount.mountpoint} ({mount.filesystem_type}), which"
            " does not answer: choose another directory"
        )


def refuse_inside(path: Path, mountpoint: Path, option: str) -> None:
    """Raise UsageError where what `option` names would lie on the mount that needs it."""
    if resolve(path).is_relative_to(mountpoint):
        raise UsageError(
            f"{path} is inside the mountpoint {mountpoint}: choose another place with {option}"
        )


class InUse(NotNow):
    """The mount can't be taken down: some program is in it."""


def unmount(path: Path, *, lazy: bool) -> None:
    """Take the mount at `path` down. Raises InUse, UsageError."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise NoFuse(
            "fusermount3 is missing: install it (Debian, Ubuntu: apt install fuse3)"
        ) from None
    except OSError as error:
        raise NotNow(f"can't run fusermount3 to unmount {path}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise NotNow(
            f"unmounting {path} takes longer than {COMMAND_TIMEOUT_S:.0f} s: try"
            f" wbfs umount --force {path}"
        ) from None
    if done.returncode == 0:
        return
    # It quotes the path, which need not be UTF-8.
    said = os.fsdecode(done.stderr).strip()
    if "busy" in said:
        raise InUse(
            f"{path} is in use: leave it and close its files (fuser -vm {path} shows who), or"
            f" detach it with wbfs umount --lazy {path}"
        )
    raise NotNow(f"can't unmount {path}: {said}")


def users_may_allow_other() -> bool:
    """Whether users other than root may let others into their mounts."""
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)

"""Mountpoints: what is mounted where, what may be mounted on, and taking a mount down."""

from __future__ import annotations

import codecs
import errno
import json
import os
import select
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbfs.model.errors import UsageError

FILESYSTEM_TYPE = "fuse.wbfs"
"""Our name in the mount table; other programs rely on it."""
COMMAND_TIMEOUT_S = 10.0
DAEMON_EXIT_TIMEOUT_S = 20.0
STATUS_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of the mount table; `options` are those of the filesystem, with commas between."""

    mountpoint: Path
    filesystem_type: str
    options: str

    @property
    def user_id(self) -> int | None:
        """The number of the user who mounted it, where it is a FUSE filesystem."""
        for option in self.options.split(","):
            name, _, value = option.partition("=")
            if name == "user_id":
                return int(value)
        return None


def mount_at(path: Path) -> Mount | None:
    """Return what is mounted exactly at `path`, the topmost where there are several."""
    wanted = Path(os.path.abspath(path))
    found = None
    for mount in _mount_table():
        if mount.mountpoint == wanted:
            found = mount
    return found


def mount_of(path: Path) -> Mount | None:
    """Return the mount that `path`, absolute and without symbolic links, is on."""
    found = None
    for mount in _mount_table():
        if path.is_relative_to(mount.mountpoint) and (
            found is None or mount.mountpoint.is_relative_to(found.mountpoint)
        ):
            found = mount
    return found


def _mount_table() -> Iterator[Mount]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        # Spaces and other odd bytes of a path are written in octal.
        escaped = left.split(" ")[4].encode("utf-8", "surrogateescape")
        unescaped = codecs.escape_decode(escaped)[0]
        assert isinstance(unescaped, bytes)
        filesystem_type, _, options = right.split(" ", 2)
        yield Mount(Path(os.fsdecode(unescaped)), filesystem_type, options)


def resolve_mountpoint(path: Path) -> Path:
    """Return the absolute path without symbolic links, also of a mount whose daemon is gone."""
    return Path(os.path.realpath(path))


def prepare_mountpoint(path: Path) -> None:
    """Check that wbfs can mount at `path`; take down a dead mount of ours that is in the way.

    Raises UsageError.
    """
    if shutil.which("fusermount3") is None:
        raise UsageError("fusermount3 is missing: install it (Debian, Ubuntu: apt install fuse3)")
    if not Path("/dev/fuse").exists():
        raise UsageError(
            "/dev/fuse is missing: the kernel has no FUSE here; in a container, start it with"
            " --device /dev/fuse --cap-add SYS_ADMIN"
        )
    mount = mount_at(path)
    if mount is not None and mount.filesystem_type == FILESYSTEM_TYPE and _is_dead(path):
        unmount(path, lazy=True)
        mount = mount_at(path)
    if mount is not None:
        raise UsageError(
            f"{path} is already a mountpoint ({mount.filesystem_type}): choose another directory,"
            f" or unmount it first (wbfs umount {path})"
        )
    try:
        entries = os.listdir(path)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: make it first (mkdir -p {path})") from None
    except NotADirectoryError:
        raise UsageError(f"{path} is not a directory: choose a directory to mount on") from None
    except OSError as error:
        raise UsageError(f"can't look into {path}: {error.strerror}") from None
    if entries:
        raise UsageError(
            f"{path} is not empty, and a mount would hide what is in it: choose an empty directory"
        )


def refuse_inside(path: Path, mountpoint: Path, option: str) -> None:
    """Raise UsageError where what `option` names would lie on the mount that needs it."""
    if path.resolve().is_relative_to(mountpoint):
        raise UsageError(
            f"{path} is inside the mountpoint {mountpoint}: choose another place with {option}"
        )


def _is_dead(path: Path) -> bool:
    """Whether the daemon behind a mount is gone ("Transport endpoint is not connected")."""
    try:
        # Not stat, which the kernel answers from memory.
        os.statvfs(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def unmount(path: Path, *, lazy: bool) -> None:
    """Take the mount at `path` down. Raises UsageError."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise UsageError(
            "fusermount3 is missing: install it (Debian, Ubuntu: apt install fuse3)"
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"unmounting {path} takes too long: try wbfs umount --lazy") from None
    if done.returncode == 0:
        return
    if "busy" in done.stderr:
        raise UsageError(
            f"{path} is in use: leave it and close its files (fuser -vm {path} shows who), or"
            f" detach it with wbfs umount --lazy {path}"
        )
    raise UsageError(f"can't unmount {path}: {done.stderr.strip()}")


def unmount_and_wait(path: Path, *, lazy: bool) -> None:
    """Take our mount at `path` down and wait until its daemon has ended. Raises UsageError."""
    mount = mount_at(path)
    if mount is None or mount.filesystem_type != FILESYSTEM_TYPE:
        raise UsageError(f"wbfs is not mounted at {path}: see findmnt -t {FILESYSTEM_TYPE}")
    daemon = None if _is_dead(path) else _open_daemon(path)
    unmount(path, lazy=lazy)
    if daemon is None:
        return
    try:
        # With --lazy the daemon serves on until the last program leaves.
        if not lazy and not _ends(daemon):
            raise UsageError(f"{path} is unmounted, but its daemon is still at work: see its log")
    finally:
        os.close(daemon)


def _open_daemon(path: Path) -> int | None:
    """Return a descriptor of the mount's daemon, if it tells which one it is in time."""
    found: list[int] = []

    def ask() -> None:
        try:
            status = json.loads((path / ".wbfs" / "status.json").read_bytes())
            found.append(os.pidfd_open(status["pid"]))
        except (OSError, ValueError, KeyError):
            # A daemon that can't answer is not waited for.
            return

    # A hung daemon would hang this read; the thread is left behind then.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(STATUS_TIMEOUT_S)
    return found[0] if found else None


def _ends(pidfd: int) -> bool:
    """Wait for a process to end; return whether it did in time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(DAEMON_EXIT_TIMEOUT_S * 1000))

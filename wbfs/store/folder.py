"""The cache directory: its user's own, and nobody else's to write, or nothing in it is believed.

What is in it is served as the content of artifacts, and what is written goes where its names lead:
so no command uses a directory that others own or may write, and no file of it is opened that isn't
a regular one of this user's. Whatever else has a file's name is a file that isn't there. A folder
that somebody has removed is made again. Blocking code, safe to call from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from wbfs.model.errors import (
    NO_DESCRIPTOR,
    StoreError,
    StoreFull,
    UsageError,
    no_descriptor,
)

log = logging.getLogger(__name__)

FOLDERS = ("blobs", "partial", "manifests")
"""What the cache directory has below it, each with files or with folders of files."""
UNTOLD_BYTES = 1 << 62
"""What a filesystem has free that says nothing of its size, as some FUSE daemons do."""
PROBE_BYTES = 8192
NAME_TRIES = 100
NAME_BYTES = 6

_NO_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV}
"""What `open` says of links, folders, pipes and sockets."""
NOT_OFFERED = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What filesystems say of operations that they don't have."""
_NO_MODES = " (on a filesystem without modes: mount that with umask=077)"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def prepare_cache(cache_dir: Path) -> None:
    """Make the cache directory, or see that nobody else can have put anything into it.

    On a disk that is read-only or full there may be none: everything is then read past it. Raises
    UsageError where it isn't to be trusted, StoreError where it can't be made.
    """
    check_cache(cache_dir)
    try:
        for name in FOLDERS:
            make_folder(cache_dir / name)
        try_out(cache_dir / "partial", cache_dir)
    except StoreError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.EROFS, errno.ENOSPC):
            raise StoreError(f"{error}; use another place, with --cache-dir") from cause
        log.warning("%s; nothing is cached", error)


def try_out(folder: Path, cache_dir: Path) -> None:
    """See in a folder that its filesystem has all that a cache can't do without.

    Modes, hard links, extended attributes, unnamed files and exact times it can. Raises UsageError,
    and StoreError where nothing can be written.
    """
    try:
        fd, path = temporary_file(folder, prefix="probe.")
    except OSError as error:
        raise store_error(f"create a file in {folder}", error) from error
    doing = "free space to tell (statfs)"
    try:
        os.fstatvfs(fd)
        doing = "locks (flock)"
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doing = "locks (fcntl)"
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doing = "files that are renamed"
        path.rename(folder / f"{path.name}.renamed")
        path = folder / f"{path.name}.renamed"
        doing = "files that can be made longer"
        os.ftruncate(fd, PROBE_BYTES)
        os.pwrite(fd, b"wbfs", PROBE_BYTES - 4)
        doing = "files that can be read once they are removed"
        path.unlink()
        if os.pread(fd, 4, PROBE_BYTES - 4) != b"wbfs":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    except OSError as error:
        if error.errno in (*NOT_OFFERED, errno.ENOLCK, errno.ENOENT, errno.ESTALE):
            raise UsageError(
                f"the cache can't be in {cache_dir}: its filesystem has no {doing}"
                f" ({error.strerror}); use --cache-dir, on a local disk for instance"
            ) from error
    finally:
        os.close(fd)
        # What fails now fails later too, and is said then.
        with contextlib.suppress(OSError):
            path.unlink()


def check_cache(cache_dir: Path) -> None:
    """See that the cache directory, where there is one, is this user's only. Raises UsageError."""
    place = cache_dir
    with _saying_why(cache_dir):
        place = Path(os.path.realpath(cache_dir))
    for parent in place.parents:
        with _saying_why(parent):
            mode = parent.stat().st_mode
            is_everybodys = mode & stat.S_IWOTH and not mode & stat.S_ISVTX
            if is_everybodys and not _is_a_pods(parent):
                raise UsageError(
                    f"the cache {cache_dir} can't be trusted: everybody may rename what is in"
                    f" {parent}; run `chmod o-w {parent}` (or `chmod +t`){_NO_MODES}, or use"
                    " --cache-dir"
                )
    with _saying_why(cache_dir):
        # The directory itself may be a link that its user has made.
        _refuse_others(cache_dir, cache_dir.stat())
    for folder in _folders_below(cache_dir):
        with _saying_why(folder):
            _refuse_others(folder, folder.lstat())


def _is_a_pods(folder: Path) -> bool:
    """Whether it is an emptyDir of Kubernetes, which everybody may write to, in its pod alone."""
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:
        _, _, _, root, mountpoint, *_ = line.split(b" ")
        if mountpoint == os.fsencode(folder):
            return b"/volumes/kubernetes.io~empty-dir/" in root
    return False


def _folders_below(cache_dir: Path) -> Iterator[Path]:
    for name in FOLDERS:
        folder = cache_dir / name
        yield folder
        with _saying_why(folder), os.scandir(folder) as entries:
            yield from (
                Path(entry.path)
                for entry in entries
                if name != "partial" and not entry.is_file(follow_symlinks=False)
            )


@contextlib.contextmanager
def _saying_why(path: Path) -> Iterator[None]:
    """What is not there needs no trust; of what can't be looked at, say so."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in NO_DESCRIPTOR:
            raise no_descriptor(f"use the cache folder {path}") from error
        raise UsageError(
            f"can't use the cache folder {path}: {error.strerror}; use --cache-dir"
        ) from error


def _refuse_others(folder: Path, found: os.stat_result) -> None:
    """Raise UsageError unless what was found at `folder` is a folder of this user's only."""
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(
            f"the cache folder {folder} is none: remove it, or use another --cache-dir"
        )
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"the cache folder {folder} belongs to uid {found.st_uid}, and this is uid"
            f" {os.geteuid()}: what others put there can't be trusted; use another --cache-dir"
        )
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise UsageError(
            f"others may write to the cache folder {folder} (mode {found.st_mode & 0o7777:04o}), so"
            f" that what is there can't be trusted: empty it and run `chmod 700 {folder}`"
            f"{_NO_MODES}, or use another --cache-dir"
        )


def make_folder(path: Path) -> None:
    """Make `path` a folder of its user only, where it isn't one. Raises StoreError."""
    try:
        make_folders(path)
    except OSError as error:
        raise store_error(f"make the cache folder {path}", error) from error


def make_folders(path: Path) -> None:
    """Make a folder, and those above it, for its user only. Raises OSError."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_folders(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def disk_of(path: Path) -> os.statvfs_result:
    """Return what the disk of a folder has, be it that the folder is gone. Raises OSError."""
    for folder in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError):
            return os.statvfs(folder)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def free_bytes(disk: os.statvfs_result) -> int:
    """Return how many bytes a disk has for this user; UNTOLD_BYTES where it doesn't tell."""
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else UNTOLD_BYTES


def is_ours(found: os.stat_result) -> bool:
    """Whether `stat` has found a file that can only be what this user's programs wrote."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except OSError:
        # Not there, or not to be looked at: not known to be.
        return False


def open_file(path: str | Path) -> int:
    """Open a file of the cache to read it. Raises OSError.

    What isn't ours is not there: FileNotFoundError.
    """
    return open_known(path)[0]


def open_known(path: str | Path) -> tuple[int, os.stat_result]:
    """Open a file as `open_file` does, and return with it what `fstat` says of it."""
    return _open(path, os.O_RDONLY)


def create_file(path: Path) -> int:
    """Open a file of the cache to read and write it; make it, and its folder, where it isn't there.

    What has its name and isn't ours is removed. Raises OSError.
    """
    for is_last in (False, True):
        try:
            return _open(path, os.O_RDWR | os.O_CREAT)[0]
        except FileNotFoundError:
            if is_last:
                raise
            make_folders(path.parent)
            remove_foreign(path)
    raise AssertionError


def temporary_file(folder: Path, *, prefix: str, suffix: str = "") -> tuple[int, Path]:
    """Create a file of a new name in a folder of the cache, which is made where it isn't there.

    Return it open to read and write, and its path. Raises OSError.
    """
    for _ in range(NAME_TRIES):
        path = folder / f"{prefix}{secrets.token_hex(NAME_BYTES)}{suffix}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o600), path
        except FileExistsError:
            continue
        except FileNotFoundError:
            make_folders(folder)
    raise FileNotFoundError(errno.ENOENT, "others remove the folder", str(folder))


@contextlib.contextmanager
def if_offered() -> Iterator[None]:
    """Do without what is done in the context where a filesystem doesn't have it."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        log.debug("the filesystem does not have it: %s", error)


def remove_foreign(path: Path) -> None:
    """Make way for a file where something has its name that isn't ours. Raises OSError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        path.rmdir()
    elif not is_ours(found):
        path.unlink(missing_ok=True)


# Nothing that a name might lead to instead is waited for.
_OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def _open(path: str | Path, flags: int) -> tuple[int, os.stat_result]:
    try:
        fd = os.open(path, flags | _OPEN_FLAGS, 0o600)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise _foreign(path) from error
    found = os.fstat(fd)
    if is_ours(found):
        return fd, found
    os.close(fd)
    raise _foreign(path)


def _foreign(path: str | Path) -> FileNotFoundError:
    log.warning("%s is no file that wbfs wrote: it is left aside", path)
    return FileNotFoundError(errno.ENOENT, "it is no file that wbfs wrote", str(path))


def store_error(doing: str, error: OSError) -> StoreError:
    """Return the StoreError that says what was being done and why it failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"can't {doing}: the disk is full; free space or use --cache-dir")
    if error.errno in NO_DESCRIPTOR:
        return no_descriptor(doing)
    return StoreError(f"can't {doing}: {error.strerror}")

"""Keeping the cache within its bounds: what was used least recently goes first.

A blob's last use is its file's access time, which the store sets when it is opened: so it holds on
disks mounted with noatime, over restarts, and for all daemons that share the directory. What a
daemon has open is locked by it and stays. Blocking code.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbfs.store.content.marks import BLOCK_BYTES, MAP_SUFFIX, UNREAD_NS, is_the_sdks
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.folder import disk_of, free_bytes, store_error

log = logging.getLogger(__name__)

ROOM_SHARE = 0.05
"""Share of the limit that is freed beyond it, so that not every fetch has to look for room."""

FILES_AT_ONCE = 32
"""Files that are removed at least where the disk can take no more of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How large the cache may be, and what must stay free on its disk; bytes, None for no bound."""

    limit: int | None
    min_free: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """A file of the cache: its size on disk in bytes, its last use in ns since the epoch."""

    path: Path
    size: int
    used_ns: int


def cached_files(cache_dir: Path) -> Iterator[CachedFile]:
    """Yield all blobs and manifests; what is being fetched is locked by who does it.

    Raises StoreError.
    """
    for folder in (cache_dir / "blobs", cache_dir / "manifests", cache_dir / "partial"):
        try:
            yield from _files_below(folder)
        except OSError as error:
            raise store_error(f"look through the cache folder {folder}", error) from error


def _files_below(folder: Path) -> Iterator[CachedFile]:
    # Others may remove what is listed, and whole folders, at any moment.
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(Path(entry.path))
                continue
            if entry.name.endswith(MAP_SUFFIX):
                # It goes with the blob that it belongs to.
                continue
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                yield CachedFile(
                    path=Path(entry.path),
                    # What the SDK's cache had first takes no room of ours.
                    size=0 if is_the_sdks(found) else found.st_blocks * BLOCK_BYTES,
                    used_ns=found.st_atime_ns,
                )


def free_room(cache_dir: Path, bounds: Bounds) -> int:
    """Return how many bytes the disk has free beyond what must stay free; below 0 if too few.

    Raises StoreError.
    """
    try:
        disk = disk_of(cache_dir)
    except OSError as error:
        raise store_error(f"look how much room the cache {cache_dir} has", error) from error
    return free_bytes(disk) - (bounds.min_free or 0)


def excess(cache_dir: Path, used: int, bounds: Bounds, need: int = 0) -> int:
    """Return how many bytes too many a cache of `used` bytes would have with `need` more.

    It is 0 where that is within bounds.
    """
    over = 0
    if bounds.limit is not None:
        over = used + need - bounds.limit
    if need or bounds.min_free is not None:
        over = max(over, need - free_room(cache_dir, bounds))
    return max(0, over)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a pruning found and did; sizes in bytes; `unread` was prefetched and never opened."""

    removed_files: int
    removed: int
    unread: int
    kept: int
    still_over: bool


def prune(
    cache_dir: Path,
    bounds: Bounds,
    sdk_cache: SdkCache,
    *,
    need: int = 0,
    is_full: bool = False,
    spare: bool = True,
) -> Pruned:
    """Remove what was used least recently, until `need` more bytes are within the cache's bounds.

    Where the disk `is_full`, as it said itself, as much is removed whatever the bounds are. With
    `spare` it gets a little smaller than that, so that there is no pruning a fetch. Raises
    StoreError.
    """
    files = sorted(cached_files(cache_dir), key=lambda file: file.used_ns)
    used = sum(file.size for file in files)
    to_free = excess(cache_dir, used, bounds, need)
    files_to_free = 0
    if is_full:
        to_free = max(to_free, need)
        files_to_free = FILES_AT_ONCE
    if to_free and spare:
        to_free += int((used if bounds.limit is None else bounds.limit) * ROOM_SHARE)
    removed_files = removed = unread = 0
    for file in files:
        # With a limit of 0 those go too that take no room of ours.
        if removed >= to_free and removed_files >= files_to_free and bounds.limit != 0:
            break
        if remove_unless_open(file.path, sdk_cache):
            removed_files += 1
            removed += file.size
            unread += file.size if file.used_ns == UNREAD_NS else 0
    still_over = removed < to_free
    if still_over:
        log.info(
            "the cache %s is over its bounds by %d bytes: all that is left is in use",
            cache_dir,
            to_free - removed,
        )
    return Pruned(
        removed_files=removed_files,
        removed=removed,
        unread=unread,
        kept=used - removed,
        still_over=still_over,
    )


def remove_unless_open(path: Path, sdk_cache: SdkCache) -> bool:
    """Remove a file of the cache unless a daemon has it open; return whether it did.

    The name that a blob was given in the SDK's cache goes too: its bytes would stay on the disk.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        # Somebody else removed it.
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        if not os.path.samestat(found, path.stat()):
            # Sealed anew in the meantime, and in use for all that is known.
            return False
        path.unlink()
    except OSError as error:
        # In use, or on a disk that can't be written to or locks nothing.
        if not isinstance(error, BlockingIOError | FileNotFoundError):
            log.warning("can't remove %s from the cache: %s", path, error.strerror)
        return False
    finally:
        os.close(fd)
    if not is_the_sdks(found):
        sdk_cache.remove(path, found)
    path.with_name(path.name + MAP_SUFFIX).unlink(missing_ok=True)
    return True

"""A sealed blob that is open: read, and kept from eviction. Blocking code."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref

from wbfs.model.errors import StoreError
from wbfs.store.folder import store_error

USE_NOTED_NS = 60 * 10**9
"""Nanoseconds in which a cached file's further uses are not noted again."""


class SealedBlob:
    """A sealed blob that is open, and closed when nobody refers to it any more.

    However many readers waited for it, each finds it here: by its name it may be evicted at once.
    `in_memory` tells that it has no name, and takes memory while it is open; `was_unread` that it
    was prefetched, and is opened for the first time.
    """

    def __init__(self, fd: int, *, in_memory: bool = False) -> None:
        self.fd = fd
        self.in_memory = in_memory
        self.was_unread = False
        # Not `__del__`: until that has ended, another thread may find the object by a weak
        # reference, with a descriptor that is closed, or another file's.
        weakref.finalize(self, os.close, fd).atexit = False

    def reopen(self) -> int:
        """Return a descriptor of the caller's own."""
        return os.dup(self.fd)


def read_in_memory(fd: int, buffer: memoryview, offset: int) -> int:
    """Read what the kernel has in memory, without ever waiting for a disk; return how much."""
    try:
        return os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError:
        # Nothing in memory, or a filesystem that can't tell: `read_fully` finds out which.
        return 0


def read_fully(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` with the bytes of a cached blob at `offset`. Raises StoreError."""
    done = 0
    try:
        while done < len(buffer) and (count := os.preadv(fd, [buffer[done:]], offset + done)):
            done += count
    except OSError as error:
        raise store_error("read a cached blob", error) from error
    if done < len(buffer):
        raise StoreError("can't read a cached blob: it is shorter than it was when it was sealed")


def mark_used(fd: int, found: os.stat_result | None = None) -> bool:
    """Keep a cached file from eviction while `fd` is open, and note when it was used last.

    `found` is what `fstat` has said of it, where that is known. Return False where it is being
    evicted at this moment.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    found = found or os.fstat(fd)
    now_ns = time.time_ns()
    if now_ns - found.st_atime_ns > USE_NOTED_NS:
        # Somebody else's file, or one on a disk that became read-only; it may go a little early.
        with contextlib.suppress(OSError):
            os.utime(fd, ns=(now_ns, found.st_mtime_ns))
    return True

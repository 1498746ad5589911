"""How many bytes a cache has, as all daemons and processes count it that add to it.

    <cache>/used.count      what is used, and all that was ever taken; in bytes

It is a lower bound of nothing and an upper bound of what is there: what is written is taken before
it is, and given back after it is gone. A scan of the cache puts it right. Where there can be no
such file, each process counts for itself. Blocking code, safe to call from any thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wbfs.store.folder import create_file

log = logging.getLogger(__name__)

BUSY_S = 2.0
"""Seconds after which a process that holds the file is stopped, or dead without knowing it."""
POLL_S = 0.001
_NUMBERS = struct.Struct("<qq")


@dataclass(slots=True)
class Numbers:
    """`used` is None until somebody has counted what is there; `taken` only ever grows."""

    used: int | None
    taken: int


class Tally:
    """The count of one cache directory."""

    def __init__(self, cache_dir: Path) -> None:
        """Take the file's place; it is made when it is needed."""
        self._path = cache_dir / "used.count"
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._is_shared = False

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)

    @property
    def used(self) -> int | None:
        """What is used in bytes, as far as that is known; waits for nobody."""
        fd = self._fd
        return None if fd is None else _read(fd).used

    @contextmanager
    def locked(self) -> Iterator[Numbers]:
        """Give the numbers, to be changed by nobody else meanwhile, and written at the end."""
        with self._lock:
            fd = self._open()
            _lock(fd)
            try:
                numbers = _read(fd)
                yield numbers
                if numbers.used is not None:
                    _write(fd, numbers)
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _open(self) -> int:
        if self._fd is not None and (not self._is_shared or os.fstat(self._fd).st_nlink):
            return self._fd
        if self._fd is not None:
            # The cache was deleted.
            os.close(self._fd)
            self._fd = None
        try:
            self._fd = create_file(self._path)
            self._is_shared = True
        except OSError as error:
            log.info("%s can't be kept, others don't see it: %s", self._path, error.strerror)
            self._fd = os.memfd_create(self._path.name)
            self._is_shared = False
        return self._fd


def _lock(fd: int) -> None:
    end = time.monotonic() + BUSY_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                # A process that is stopped must not stop all others; a scan puts the count right.
                return
        except OSError:
            # A disk that locks nothing.
            return
        time.sleep(POLL_S)


def _read(fd: int) -> Numbers:
    try:
        found = os.pread(fd, _NUMBERS.size, 0)
    except OSError:
        found = b""
    if len(found) != _NUMBERS.size:
        return Numbers(None, 0)
    used, taken = _NUMBERS.unpack(found)
    return Numbers(used, taken) if used >= 0 else Numbers(None, 0)


def _write(fd: int, numbers: Numbers) -> None:
    try:
        os.pwrite(fd, _NUMBERS.pack(max(0, numbers.used or 0), numbers.taken), 0)
    except OSError as error:
        log.debug("the cache's count can't be written: %s", error.strerror)

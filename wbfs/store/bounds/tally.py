"""How many bytes a cache has, as all daemons and processes count it that add to it.

    <cache>/used.count      what is used, and all that was ever taken; in bytes

It is no less than what is there, as far as all processes get the file's lock: what is written is
taken before it is, and given back after it is gone. A scan of the cache puts it right, but for what
other processes have taken and not written yet. Where there can be no such file, each process counts
for itself. Blocking code, safe to call from any thread.
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

from wbfs.store.folder import create_file, open_file

log = logging.getLogger(__name__)

BUSY_S = 2.0
"""Seconds after which a process that holds the file is stopped, or dead without knowing it. It is
waited for once, and then no more until it lets go."""
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
        self._patience_s = BUSY_S
        # For as long as there can be no file.
        self._own = Numbers(None, 0)

    @property
    def used(self) -> int | None:
        """What is used in bytes, as far as that is known; waits for nobody."""
        try:
            fd = open_file(self._path)
        except OSError:
            return self._own.used
        try:
            return _read(fd).used
        finally:
            os.close(fd)

    @contextmanager
    def locked(self) -> Iterator[Numbers]:
        """Give the numbers, to be changed by nobody else meanwhile, and written at the end."""
        with self._lock:
            # Not held open: a disk could not be unmounted, nor made read-only.
            try:
                fd = create_file(self._path)
            except OSError as error:
                log.debug("%s can't be kept, others don't see it: %s", self._path, error.strerror)
                yield self._own
                return
            try:
                self._patience_s = BUSY_S if _lock(fd, self._patience_s) else 0.0
                numbers = _read(fd)
                yield numbers
                if numbers.used is not None:
                    _write(fd, numbers)
            finally:
                os.close(fd)


def _lock(fd: int, patience_s: float) -> bool:
    """Lock the file; return False where somebody else keeps it for longer than so many seconds."""
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                # A process that is stopped must not stop all others; a scan puts the count right.
                return False
        except OSError:
            # A disk that locks nothing.
            return True
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

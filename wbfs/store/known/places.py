"""Where manifests' tables are written: in the cache, or elsewhere when that has no room.

A version can be listed whatever state the cache's disk is in. What is elsewhere, in memory or in
the system's directory for temporary files, lasts as long as the process. Blocking code.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import io
import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Protocol

from wbfs.model.errors import StoreFull
from wbfs.store.bounds.room import Room
from wbfs.store.folder import disk_of, free_bytes, open_file, store_error, temporary_file

log = logging.getLogger(__name__)

DRAFT_SUFFIX = ".tmp"
LEFTOVER_S = 60.0
"""Seconds after which a draft that nobody has locked is a leftover, whosever it was."""
ELSEWHERE_BYTES = 256 << 20
"""Bytes of all tables that are elsewhere."""
MEMORY_FOLDER = Path("/dev/shm")
"""A directory that is in memory, where there is one."""
TABLE_SHARE = 1
"""What a table takes at most, for each byte of the manifest that it is made from."""

_FOLDER_PREFIX = "wbfs-manifests-"


class Place(Protocol):
    """Where a file may be written."""

    def create(self, name: str) -> tuple[int, Path]:
        """Create a draft of a file, locked by nobody; return its descriptor and its path.

        Raises StoreError, StoreFull.
        """

    def take(self, size: int) -> None:
        """Count a file of `size` bytes before it gets its name. Raises StoreFull."""

    def reserve(self, size: int) -> None:
        """Count `size` bytes of what gets no name before they are written. Raises StoreFull."""

    def release(self, size: int) -> None:
        """Note that bytes which were reserved are no longer there."""


class Cached:
    """A folder of the cache."""

    def __init__(self, folder: Path, room: Room) -> None:
        self._folder = folder
        self._room = room

    def create(self, name: str) -> tuple[int, Path]:
        """Create a draft, once the leftovers of daemons that were killed are gone."""
        remove_leftovers(self._folder, of=name)
        return self._room.run(
            lambda: temporary_file(self._folder, prefix=f"{name}.", suffix=DRAFT_SUFFIX),
            doing=f"write the manifest {self._folder / name}",
        )

    def take(self, size: int) -> None:
        """Count it as the cache's."""
        self._room.take(size)

    def reserve(self, size: int) -> None:
        """Count it as the cache's."""
        self._room.reserve(size)

    def release(self, size: int) -> None:
        """Count it no longer."""
        self._room.release(size)


class Elsewhere:
    """A folder of this process's own, which ends with it; `folder` is None until it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scratch = 0
        self.folder: Path | None = None

    def create(self, name: str) -> tuple[int, Path]:
        """Create a draft, once as many tables that nobody has open are gone as is needed."""
        try:
            with self._lock:
                if self.folder is None:
                    self.folder = self._make()
            return temporary_file(self.folder, prefix=f"{name}.", suffix=DRAFT_SUFFIX)
        except OSError as error:
            raise store_error(f"write the manifest {name} outside of the cache", error) from error

    def take(self, size: int) -> None:
        """Remove what was used least recently where it would be too much."""
        self.reserve(size)
        # From now on it is found.
        self.release(size)

    def reserve(self, size: int) -> None:
        """Remove what was used least recently where it would be too much."""
        with self._lock:
            tables = sorted(self._tables(), key=lambda table: table[1].st_atime_ns)
            total = size + self._scratch + sum(found.st_size for _, found in tables)
            for path, found in tables:
                if total <= ELSEWHERE_BYTES:
                    break
                if _remove_unless_locked(path):
                    total -= found.st_size
            if total > ELSEWHERE_BYTES:
                raise StoreFull(
                    "the cache has no room for the manifest, and beside it there are"
                    f" {ELSEWHERE_BYTES >> 20} MiB of them already: free space in the cache"
                )
            self._scratch += size

    def release(self, size: int) -> None:
        """Note that bytes are gone that were none of a table's."""
        with self._lock:
            self._scratch -= size

    def _tables(self) -> list[tuple[Path, os.stat_result]]:
        if self.folder is None:
            return []
        return [(path, path.stat()) for path in self.folder.glob("*.sqlite")]

    def _make(self) -> Path:
        folders = [Path(tempfile.gettempdir())]
        if os.access(MEMORY_FOLDER, os.W_OK):
            folders.append(MEMORY_FOLDER)
        for folder in folders:
            _remove_abandoned(folder)
        roomiest = max(folders, key=_free)
        made = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=roomiest))
        # While it is locked, others know that it is used.
        fd = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        weakref.finalize(self, _remove_folder, made, fd)
        log.info("what versions list is kept in %s while the cache has no room", made)
        return made


class Scratch(io.FileIO):
    """A file that grows at its end, for a manifest whose table will be in the same place.

    What it takes is taken for the table as well, until it is closed.
    """

    def __init__(self, fd: int, place: Place) -> None:
        super().__init__(fd, "r+b")
        self._place = place
        self._taken = 0

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        """Write all of a piece. Raises OSError, StoreError, StoreFull."""
        size = len(piece) * (1 + TABLE_SHARE)
        self._place.reserve(size)
        self._taken += size
        view = memoryview(piece)
        while view:
            view = view[super().write(view) or 0 :]
        return len(piece)

    def close(self) -> None:
        """Close the file, which is gone then."""
        if not self.closed:
            self._place.release(self._taken)
            self._taken = 0
        super().close()


def _free(folder: Path) -> int:
    try:
        disk = disk_of(folder)
    except OSError:
        return 0
    return 0 if disk.f_flag & os.ST_RDONLY else free_bytes(disk)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Remove the drafts in a folder that processes which were killed have left a while ago.

    Those `of` one file only, where that is said.
    """
    name = "" if of is None else f"{glob.escape(of)}."
    with contextlib.suppress(OSError):
        for leftover in folder.glob(f"{name}*{DRAFT_SUFFIX}"):
            # A newer one may be locked by its writer in a moment.
            if time.time() - leftover.lstat().st_mtime > LEFTOVER_S:
                _remove_unless_locked(leftover)


def _remove_unless_locked(path: Path) -> bool:
    """Remove a file that no process has in use; return whether it did."""
    try:
        fd = open_file(path)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed have left of what was theirs alone."""
    for found in folder.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            fd = os.open(found, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(found, ignore_errors=True)
            finally:
                os.close(fd)


def _remove_folder(folder: Path, fd: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(fd)

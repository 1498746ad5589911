"""Sealed blobs: whole files by content, checked before they get their name, never written again.

    blobs/ab/<key>      ab = the first two hexadecimal digits of the digest
    partial/<key>.*     what is being fetched; its writer holds a lock on it

A blob is written below `partial/` and renamed into `blobs/` once its digest was checked, so that
no reader ever sees a torn file and several daemons may share the directory: writing the same
content twice is harmless. Blocking code, safe to call from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Self

from wbfs.model.digests import new_hasher
from wbfs.model.entries import Blob
from wbfs.model.errors import IntegrityError, StoreError, StoreFull

log = logging.getLogger(__name__)

USE_NOTED_NS = 60 * 10**9
"""Nanoseconds in which a cached file's further uses are not noted again."""


class Blobs:
    """The blobs of one cache directory."""

    def __init__(self, cache_dir: Path) -> None:
        """Open, or make, the folders below `cache_dir`. Raises StoreError."""
        self._sealed = cache_dir / "blobs"
        self._partial = cache_dir / "partial"
        for folder in (self._sealed, self._partial):
            make_folder(folder)

    def path(self, blob: Blob) -> Path:
        """Where the sealed blob is, or would be."""
        return self._sealed / blob.key.partition("-")[2][:2] / blob.key

    def open(self, blob: Blob) -> int | None:
        """Return a file descriptor of the sealed blob, or None where the store hasn't got it.

        The caller closes it; while it is open nobody evicts the blob. Raises StoreError.
        """
        path = self.path(blob)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_error(f"open the cached blob {path}", error) from error
        if blob.size is not None and os.fstat(fd).st_size != blob.size:
            # Sealed blobs have the right size; this is a damaged disk or another program's doing.
            os.close(fd)
            log.warning("cached blob %s has a wrong size: it is fetched again", path)
            path.unlink(missing_ok=True)
            return None
        if not mark_used(fd):
            os.close(fd)
            return None
        return fd

    def create(self, blob: Blob) -> PartialBlob:
        """Start to write `blob`. Raises StoreError, StoreFull."""
        return PartialBlob(blob, self._partial, self.path(blob))

    def remove_abandoned(self) -> int:
        """Remove partial blobs whose writer is gone and return how many they were."""
        removed = 0
        for path in self._partial.iterdir():
            # A writer in another daemon may finish, and its name go, at any moment.
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                path.unlink()
                removed += 1
        return removed


class SealedBlob:
    """A sealed blob that is open, and closed when nobody refers to it any more.

    However many readers waited for it, each finds it here: by its name it may be evicted at once.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    def reopen(self) -> int:
        """Return a descriptor of the caller's own."""
        return os.dup(self.fd)


class PartialBlob:
    """A blob while its bytes arrive, in order; a context manager that discards what isn't sealed.

    One thread writes.
    """

    def __init__(self, blob: Blob, folder: Path, target: Path) -> None:
        self._blob = blob
        self._target = target
        self._hasher = new_hasher(blob.digest.algorithm) if blob.digest else None
        self.written = 0
        try:
            fd, name = tempfile.mkstemp(prefix=f"{blob.key}.", dir=folder)
        except OSError as error:
            raise store_error(f"create a file in {folder}", error) from error
        self._path = Path(name)
        self._file = os.fdopen(fd, "wb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()

    def append(self, piece: bytes | memoryview) -> None:
        """Add the next bytes. Raises StoreError, StoreFull."""
        view = memoryview(piece)
        try:
            while view:
                count = self._file.write(view)
                if self._hasher:
                    self._hasher.update(view[:count])
                self.written += count
                view = view[count:]
        except OSError as error:
            raise store_error(f"write {self._path}", error) from error

    def seal(self) -> SealedBlob:
        """Check size and digest, give the blob its name, and return it open.

        Raises IntegrityError where the bytes are not the blob's, StoreError, StoreFull.
        """
        blob = self._blob
        if blob.size is not None and self.written != blob.size:
            raise IntegrityError(f"got {self.written} bytes where {blob.size} were expected")
        if blob.digest and self._hasher and self._hasher.hexdigest() != blob.digest.hex:
            raise IntegrityError(
                f"got bytes of digest {blob.digest.algorithm}:{self._hasher.hexdigest()} where"
                f" {blob.digest} was expected"
            )
        try:
            # On disk before it has a name: after a power cut nothing unchecked is in blobs/.
            os.fdatasync(self._file.fileno())
            os.fchmod(self._file.fileno(), 0o400)
            self._target.parent.mkdir(mode=0o700, exist_ok=True)
            sealed = SealedBlob(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))
            fcntl.flock(self._file, fcntl.LOCK_UN)
            mark_used(sealed.fd)
            self._path.rename(self._target)
        except OSError as error:
            raise store_error(f"seal {self._target}", error) from error
        return sealed


def read_in_memory(fd: int, buffer: memoryview, offset: int) -> int:
    """Read what the kernel has in memory, without ever waiting for a disk; return how much."""
    try:
        return os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError:
        # Nothing in memory, or a filesystem that can't tell: `read_fully` finds out which.
        return 0


def read_fully(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` with the bytes of a sealed blob at `offset`. Raises StoreError."""
    done = 0
    try:
        while done < len(buffer) and (count := os.preadv(fd, [buffer[done:]], offset + done)):
            done += count
    except OSError as error:
        raise store_error("read a cached blob", error) from error
    if done < len(buffer):
        raise StoreError("can't read a cached blob: it is shorter than it was when it was sealed")


def mark_used(fd: int) -> bool:
    """Keep a cached file from eviction while `fd` is open, and note when it was used last.

    Return False where it is being evicted at this moment.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    found = os.fstat(fd)
    now_ns = time.time_ns()
    if now_ns - found.st_atime_ns > USE_NOTED_NS:
        # Somebody else's file in a shared cache can't be marked; it may go a little early.
        with contextlib.suppress(PermissionError):
            os.utime(fd, ns=(now_ns, found.st_mtime_ns))
    return True


def make_folder(path: Path) -> None:
    """Make `path` a folder of its user only, where it isn't one. Raises StoreError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(f"make the cache folder {path}", error) from error


def store_error(doing: str, error: OSError) -> StoreError:
    """Return the StoreError that says what was being done and why it failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"can't {doing}: the disk is full; free space or use --cache-dir")
    return StoreError(f"can't {doing}: {error.strerror}")

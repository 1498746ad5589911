"""Blobs while their bytes arrive.

    partial/<key>         a large blob's bytes, and <key>.map; see `large_blob`
    partial/<key>.<...>   a small blob, or a large one that another daemon is fetching as well

Whoever writes a file holds a lock on it. Blocking code.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from wbfs.model.digests import new_hasher
from wbfs.model.entries import Blob
from wbfs.model.errors import StoreError, StoreFull
from wbfs.store.blobs import BLOCK_BYTES, Blobs, SealedBlob, make_folder, store_error
from wbfs.store.large_blob import (
    MAP_SUFFIX,
    LargeBlob,
    check_content,
    is_at,
    lock_for_writing,
    write_fully,
)

TEMPORARY_TRIES = 3

T = TypeVar("T")


class PartialBlobs:
    """The partial blobs of one cache directory."""

    def __init__(
        self, cache_dir: Path, blobs: Blobs, *, checkpoint: Callable[[], None] = lambda: None
    ) -> None:
        """Open, or make, the folder below `cache_dir`. Raises StoreError."""
        self._folder = cache_dir / "partial"
        self._blobs = blobs
        self._checkpoint = checkpoint
        make_folder(self._folder)

    def small(self, blob: Blob) -> SmallBlob:
        """Start to write a blob from its first byte to its last. Raises StoreError, StoreFull."""
        fd, path = self._temporary(blob)
        return SmallBlob(fd, path, blob, self._blobs)

    def in_memory(self, blob: Blob, *, limit: int) -> SmallBlob:
        """Start to write a blob of at most `limit` bytes to memory: no disk can hold it.

        Raises StoreError.
        """
        try:
            return SmallBlob(os.memfd_create(blob.key), None, blob, self._blobs, limit=limit)
        except OSError as error:
            raise store_error("keep a file in memory", error) from error

    def large(self, blob: Blob) -> LargeBlob:
        """Start or go on to write a blob of known size in any order. Raises StoreError."""
        path = self._folder / blob.key
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = self._in_folder(lambda: os.open(path, flags, 0o600))
        has_map = lock_for_writing(fd) and is_at(fd, path)
        if not has_map:
            # Another daemon fetches it, or has just sealed it: this one does without its bytes.
            os.close(fd)
            fd, path = self._temporary(blob)
        return LargeBlob(fd, path, blob, self._blobs, has_map=has_map, checkpoint=self._checkpoint)

    def size_of(self, blob: Blob) -> int:
        """Return how many bytes of the disk a large blob takes so far."""
        try:
            return (self._folder / blob.key).stat().st_blocks * BLOCK_BYTES
        except FileNotFoundError:
            return 0

    def _in_folder(self, create: Callable[[], T]) -> T:
        """Create a file in the folder, which is made again where it was removed.

        Raises StoreError.
        """
        try:
            try:
                return create()
            except FileNotFoundError:
                make_folder(self._folder)
                return create()
        except OSError as error:
            raise store_error(f"create a file in {self._folder}", error) from error

    def _temporary(self, blob: Blob) -> tuple[int, Path]:
        for _ in range(TEMPORARY_TRIES):
            fd, name = self._in_folder(
                lambda: tempfile.mkstemp(prefix=f"{blob.key}.", dir=self._folder)
            )
            # A daemon that tidies up may have taken it for abandoned before it was locked.
            if lock_for_writing(fd) and is_at(fd, Path(name)):
                return fd, Path(name)
            os.close(fd)
        raise StoreError(f"can't create a file in {self._folder}: others remove it; try again")

    def remove_abandoned(self) -> int:
        """Remove what nobody can go on with, its writer being gone; return how many files."""
        removed = 0
        names = set(os.listdir(self._folder)) if self._folder.exists() else set()
        for name in names:
            path = self._folder / name
            if name.endswith(MAP_SUFFIX):
                if name.removesuffix(MAP_SUFFIX) not in names:
                    path.unlink(missing_ok=True)
                continue
            if "." not in name and name + MAP_SUFFIX in names:
                continue
            # A writer in another daemon may finish, and its name go, at any moment.
            with contextlib.suppress(OSError), path.open("r+b") as file:
                if lock_for_writing(file.fileno()) and is_at(file.fileno(), path):
                    path.unlink()
                    removed += 1
        return removed


class SmallBlob:
    """A blob that is written in order; a context manager that discards what isn't sealed.

    One thread writes. Without a path it is in memory only. More bytes than `limit` are too many.
    """

    def __init__(
        self,
        fd: int,
        path: Path | None,
        blob: Blob,
        blobs: Blobs,
        *,
        limit: float = math.inf,
    ) -> None:
        self._fd = fd
        self._path = path
        self._blob = blob
        self._blobs = blobs
        self._limit = limit
        self._hasher = new_hasher(blob.digest.algorithm) if blob.digest else None
        self._sealed = False
        self.written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None and not self._sealed:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)

    def write(self, offset: int, piece: bytes) -> None:
        """Add the next bytes, those at `offset`. Raises StoreError, StoreFull."""
        if offset + len(piece) > self._limit:
            raise StoreFull(f"can't keep more than {self._limit:.0f} bytes of a file in memory")
        if self._hasher:
            self._hasher.update(piece)
        try:
            write_fully(self._fd, piece, offset)
        except OSError as error:
            raise store_error(f"write {self._path}", error) from error
        self.written = offset + len(piece)

    def seal(self, *, is_unread: bool = False) -> SealedBlob:
        """Check size and digest, give the blob its name, and return it open.

        What `is_unread` is the first to be evicted, until it is opened. Raises IntegrityError where
        the bytes are not the blob's, StoreError, StoreFull.
        """
        check_content(self._blob, self.written, self._hasher.hexdigest() if self._hasher else None)
        if self._path is None:
            return SealedBlob(os.dup(self._fd), in_memory=True)
        sealed = self._blobs.seal(self._path, self._fd, self._blob, is_unread=is_unread)
        self._sealed = True
        return sealed

"""Blobs while their bytes arrive.

    partial/<key>         a large blob's bytes, and <key>.map; see `large_blob`
    partial/<key>.<...>   a small blob, or a large one that another daemon is fetching as well

Whoever writes a file holds a lock on it. Blocking code.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from wbfs.model.digests import new_hasher
from wbfs.model.entries import Blob
from wbfs.model.errors import StoreError, StoreFull
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.large_blob import (
    LargeBlob,
    check_content,
    lock_for_writing,
    write_fully,
)
from wbfs.store.content.marks import BLOCK_BYTES, MAP_SUFFIX
from wbfs.store.content.sealed import SealedBlob
from wbfs.store.folder import create_file, is_at, open_file, store_error, temporary_file

TEMPORARY_TRIES = 3


class PartialBlobs:
    """The partial blobs of one cache directory."""

    def __init__(
        self, cache_dir: Path, blobs: Blobs, *, checkpoint: Callable[[], None] = lambda: None
    ) -> None:
        """Take the folder below `cache_dir`, which is made when it is needed."""
        self._folder = cache_dir / "partial"
        self._blobs = blobs
        self._room = blobs.room
        self._checkpoint = checkpoint

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
        """Start or go on to write a blob of known size in any order.

        It doesn't take long: on a full disk nothing is removed first. Raises StoreError, StoreFull.
        """
        path = self._folder / blob.key
        fd = self._room.run(lambda: create_file(path), doing=f"open {path}", evicts=False)
        has_map = lock_for_writing(fd) and is_at(fd, path)
        if not has_map:
            # Another daemon fetches it, or has just sealed it: this one does without its bytes.
            os.close(fd)
            fd, path = self._temporary(blob, evicts=False)
        return LargeBlob(fd, path, blob, self._blobs, has_map=has_map, checkpoint=self._checkpoint)

    def size_of(self, blob: Blob) -> int:
        """Return how many bytes of the disk a large blob takes so far."""
        try:
            return (self._folder / blob.key).lstat().st_blocks * BLOCK_BYTES
        except OSError:
            return 0

    def _temporary(self, blob: Blob, *, evicts: bool = True) -> tuple[int, Path]:
        for _ in range(TEMPORARY_TRIES):
            fd, path = self._room.run(
                lambda: temporary_file(self._folder, prefix=f"{blob.key}."),
                doing=f"create a file in {self._folder}",
                evicts=evicts,
            )
            # A daemon that tidies up may have taken it for abandoned before it was locked.
            if lock_for_writing(fd) and is_at(fd, path):
                return fd, path
            os.close(fd)
        raise StoreError(f"can't create a file in {self._folder}: others remove it; try again")

    def remove_abandoned(self) -> int:
        """Remove what nobody can go on with, its writer being gone; return how many files.

        Raises StoreError.
        """
        try:
            return self._remove_abandoned()
        except OSError as error:
            raise store_error(f"tidy up {self._folder}", error) from error

    def _remove_abandoned(self) -> int:
        removed = 0
        names = set(os.listdir(self._folder)) if self._folder.exists() else set()
        for name in names:
            path = self._folder / name
            if name.endswith(MAP_SUFFIX):
                if name.removesuffix(MAP_SUFFIX) not in names:
                    path.unlink(missing_ok=True)
                continue
            if "." not in name and name + MAP_SUFFIX in names and not self._is_sealed(name):
                continue
            # A writer in another daemon may finish, and its name go, at any moment.
            with contextlib.suppress(OSError), os.fdopen(open_file(path), "rb") as file:
                if lock_for_writing(file.fileno()) and is_at(file.fileno(), path):
                    path.unlink()
                    path.with_name(name + MAP_SUFFIX).unlink(missing_ok=True)
                    removed += 1
        return removed

    def _is_sealed(self, key: str) -> bool:
        # Another daemon, which fetched it as well, was first: nobody goes on with this one.
        return self._blobs.path(Blob(key=key, size=None, digest=None)).exists()


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
        self._room = blobs.room
        self._limit = limit
        self._hasher = new_hasher(blob.digest.algorithm) if blob.digest else None
        self._sealed = False
        self.written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None and not self._sealed:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._room.give_back(self._blobs.rounded(self.written))
        os.close(self._fd)

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        """Add the next bytes, those at `offset`. Raises StoreError, StoreFull."""
        if offset + len(piece) > self._limit:
            raise StoreFull(f"can't keep more than {self._limit:.0f} bytes of a file in memory")
        if self._hasher:
            self._hasher.update(piece)
        if self._path is None:
            write_fully(self._fd, piece, offset)
        else:
            rounded = self._blobs.rounded
            self._room.add(
                # The last block is there as a whole.
                rounded(offset + len(piece)) - rounded(offset),
                lambda: write_fully(self._fd, piece, offset),
                doing=f"write {self._path}",
            )
        self.written = offset + len(piece)

    def unnamed(self) -> SealedBlob:
        """Return what has come, open, and without a name: it is gone once it is closed."""
        return SealedBlob(os.dup(self._fd))

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

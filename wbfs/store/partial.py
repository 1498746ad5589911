"""Blobs while their bytes arrive.

    partial/<key>         a large blob's bytes, with holes where nothing has arrived yet
    partial/<key>.map     which extents it holds, so that a later mount need not fetch them again
    partial/<key>.<...>   a small blob, or a large one that another daemon is fetching as well

Whoever writes a file holds a lock on it. Blocking code.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from wbfs.model.digests import new_hasher
from wbfs.model.entries import Blob
from wbfs.model.errors import IntegrityError, StoreError
from wbfs.model.extents import Extents
from wbfs.store.blobs import Blobs, SealedBlob
from wbfs.store.folder import create_file, open_file, store_error, temporary_file
from wbfs.store.hashing import RunningDigest
from wbfs.store.marks import BLOCK_BYTES, MAP_SUFFIX

log = logging.getLogger(__name__)

TEMPORARY_TRIES = 3
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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

    def in_memory(self, blob: Blob) -> SmallBlob:
        """Start to write a blob to memory: the disk has no room for it."""
        return SmallBlob(os.memfd_create(blob.key), None, blob, self._blobs)

    def large(self, blob: Blob) -> LargeBlob:
        """Start or go on to write a blob of known size in any order. Raises StoreError."""
        assert blob.size is not None
        path = self._folder / blob.key
        fd = self._room.run(lambda: create_file(path), doing=f"open {path}")
        map_path: Path | None = path.with_name(path.name + MAP_SUFFIX)
        if not _lock(fd) or not _is_at(fd, path):
            # Another daemon fetches it, or has just sealed it: this one does without its bytes.
            os.close(fd)
            fd, path = self._temporary(blob)
            map_path = None
        held = safe = Extents()
        try:
            if map_path is not None and os.fstat(fd).st_size == blob.size:
                held, safe = _read_map(map_path)
            if not held.total:
                if map_path is not None:
                    # One of a file that is gone must not be taken for this one's.
                    map_path.unlink(missing_ok=True)
                os.ftruncate(fd, 0)
                os.ftruncate(fd, blob.size)
        except OSError as error:
            os.close(fd)
            raise store_error(f"open {path}", error) from error
        return LargeBlob(
            fd,
            path,
            map_path,
            blob,
            self._blobs,
            held=held,
            safe=safe,
            checkpoint=self._checkpoint,
        )

    def size_of(self, blob: Blob) -> int:
        """Return how many bytes of the disk a large blob takes so far."""
        try:
            return (self._folder / blob.key).lstat().st_blocks * BLOCK_BYTES
        except OSError:
            return 0

    def _temporary(self, blob: Blob) -> tuple[int, Path]:
        for _ in range(TEMPORARY_TRIES):
            fd, path = self._room.run(
                lambda: temporary_file(self._folder, prefix=f"{blob.key}."),
                doing=f"create a file in {self._folder}",
            )
            # A daemon that tidies up may have taken it for abandoned before it was locked.
            if _lock(fd) and _is_at(fd, path):
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
        for path in self._folder.iterdir() if self._folder.exists() else ():
            if "." not in path.name:
                continue
            if path.suffix == MAP_SUFFIX:
                if not path.with_suffix("").exists():
                    path.unlink(missing_ok=True)
                continue
            # A writer in another daemon may finish, and its name go, at any moment.
            with contextlib.suppress(OSError), os.fdopen(open_file(path), "rb") as file:
                if _lock(file.fileno()):
                    path.unlink()
                    removed += 1
        return removed


class SmallBlob:
    """A blob that is written in order; a context manager that discards what isn't sealed.

    One thread writes. Without a path it is in memory only.
    """

    def __init__(self, fd: int, path: Path | None, blob: Blob, blobs: Blobs) -> None:
        self._fd = fd
        self._path = path
        self._blob = blob
        self._blobs = blobs
        self._room = blobs.room
        self._hasher = new_hasher(blob.digest.algorithm) if blob.digest else None
        self._sealed = False
        self.written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None and not self._sealed:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._room.give_back(self.written)
        os.close(self._fd)

    def write(self, offset: int, piece: bytes) -> None:
        """Add the next bytes, those at `offset`. Raises StoreError, StoreFull."""
        if self._hasher:
            self._hasher.update(piece)
        if self._path is None:
            _write(self._fd, piece, offset)
        else:
            self._room.add(
                len(piece),
                lambda: _write(self._fd, piece, offset),
                doing=f"write {self._path}",
            )
        self.written = offset + len(piece)

    def seal(self, *, is_unread: bool = False) -> SealedBlob:
        """Check size and digest, give the blob its name, and return it open.

        What `is_unread` is the first to be evicted, until it is opened. Raises IntegrityError where
        the bytes are not the blob's, StoreError, StoreFull.
        """
        _check(self._blob, self.written, self._hasher.hexdigest() if self._hasher else None)
        if self._path is None:
            return SealedBlob(os.dup(self._fd), in_memory=True)
        # Its last block is there as a whole.
        self._room.take(self._blobs.rounded(self.written) - self.written)
        sealed = self._blobs.seal(self._path, self._fd, self._blob, is_unread=is_unread)
        self._sealed = True
        return sealed


class LargeBlob:
    """A blob that is written in extents, in any order, by several threads.

    `held` is what an earlier mount has left of it. Where it isn't closed, its descriptor is when
    nobody refers to the blob any more: a thread that is left behind when the daemon ends must not
    write to what the number means by then.
    """

    def __init__(
        self,
        fd: int,
        path: Path,
        map_path: Path | None,
        blob: Blob,
        blobs: Blobs,
        *,
        held: Extents,
        safe: Extents,
        checkpoint: Callable[[], None],
    ) -> None:
        self.fd = fd
        self.held = held
        self._path = path
        self._map_path = map_path
        self._blob = blob
        self._blobs = blobs
        self._room = blobs.room
        self._checkpoint = checkpoint
        # What a power cut can't take.
        self._safe: list[tuple[int, int]] = list(safe)
        self._sealed = False
        self._closed = False
        self._digest = self._new_digest()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file, with no thread at work on it. What isn't sealed stays, if mapped."""
        if self._closed:
            return
        self._closed = True
        if self._map_path is None and not self._sealed:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._room.give_back(os.fstat(self.fd).st_blocks * BLOCK_BYTES)
        os.close(self.fd)

    def write(self, offset: int, piece: bytes) -> None:
        """Put bytes in their place. Raises StoreError, StoreFull."""
        self._room.add(
            len(piece), lambda: _write(self.fd, piece, offset), doing=f"write {self._path}"
        )

    def save(self, held: list[tuple[int, int]]) -> None:
        """Note what it holds, for a later mount while the machine is up. Raises StoreError."""
        self._write_map(held, sync=False)

    def flush(self, held: list[tuple[int, int]]) -> None:
        """Wait until it is safely on disk, and note what it holds for good. Raises StoreError."""
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            raise store_error(f"write {self._path} to disk", error) from error
        self._safe = held
        self._write_map(held, sync=True)

    def _write_map(self, held: list[tuple[int, int]], *, sync: bool) -> None:
        if self._map_path is None or self._sealed or self._closed:
            return
        contents = {"boot": _boot_id(), "held": held, "safe": self._safe}
        try:
            fd, name = temporary_file(self._path.parent, prefix=f"{self._map_path.name}.")
            try:
                with os.fdopen(fd, "w") as file:
                    json.dump(contents, file)
                    file.flush()
                    if sync:
                        os.fsync(fd)
                name.rename(self._map_path)
            finally:
                name.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(f"write {self._map_path}", error) from error

    def check_ahead(self, stop: int) -> None:
        """Take the bytes before `stop`, which nobody writes any more, into the digest already.

        One thread at a time, with `seal`. Raises StoreError.
        """
        if self._digest is None:
            return
        try:
            self._digest.advance(stop)
        except OSError as error:
            raise store_error(f"read {self._path}", error) from error

    def _new_digest(self) -> RunningDigest | None:
        if self._blob.digest is None:
            return None
        return RunningDigest(self.fd, self._blob.digest.algorithm, checkpoint=self._checkpoint)

    def seal(self) -> SealedBlob:
        """Check the digest of all its bytes, give the blob its name, and return it open.

        Raises IntegrityError where the bytes are not the blob's, StoreError, StoreFull.
        """
        size = os.fstat(self.fd).st_size
        self.check_ahead(size)
        digest = self._digest.hexdigest() if self._digest else None
        _check(self._blob, size, digest)
        sealed = self._blobs.seal(self._path, self.fd, self._blob)
        self._sealed = True
        self._unlink_map()
        return sealed

    def clear(self) -> None:
        """Drop all bytes: they are not the blob's. Raises StoreError."""
        self._unlink_map()
        self._safe = []
        self._digest = self._new_digest()
        held = os.fstat(self.fd).st_blocks * BLOCK_BYTES
        try:
            os.ftruncate(self.fd, 0)
            os.ftruncate(self.fd, self._blob.size or 0)
        except OSError as error:
            raise store_error(f"empty {self._path}", error) from error
        self._room.give_back(held)

    def _unlink_map(self) -> None:
        if self._map_path is not None:
            self._map_path.unlink(missing_ok=True)


def _lock(fd: int) -> bool:
    """Take the writer's lock on a file; return whether nobody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _write(fd: int, piece: bytes, offset: int) -> None:
    view = memoryview(piece)
    while view:
        count = os.pwrite(fd, view, offset)
        offset += count
        view = view[count:]


def _check(blob: Blob, size: int, digest: str | None) -> None:
    if blob.size is not None and size != blob.size:
        raise IntegrityError(f"got {size} bytes where {blob.size} were expected")
    if blob.digest and digest != blob.digest.hex:
        raise IntegrityError(
            f"got bytes of digest {blob.digest.algorithm}:{digest} where {blob.digest} was expected"
        )


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _read_map(path: Path) -> tuple[Extents, Extents]:
    """Return what a partial blob holds as far as that can be trusted now, and after a power cut."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            found = json.load(file)
        safe = Extents((int(start), int(stop)) for start, stop in found["safe"])
        if found["boot"] != _boot_id():
            return Extents(safe), safe
        return Extents((int(start), int(stop)) for start, stop in found["held"]), safe
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        # Torn by a power cut: what it says is lost, and fetched again.
        log.warning("can't read %s: %s", path, type(error).__name__)
    return Extents(), Extents()

"""A large blob while its bytes arrive: in extents, in any order, by several threads.

    partial/<key>         its bytes, with holes where nothing has arrived yet
    partial/<key>.map     which extents it holds, so that a later mount need not fetch them again

One object is one generation of the bytes, with a file of its own: what belonged to an earlier one,
be it a writer that is late or a map, never reaches a later one's. Blocking code.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wbfs.model.entries import Blob
from wbfs.model.errors import IntegrityError, StoreError
from wbfs.model.extents import Extents
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.hashing import RunningDigest
from wbfs.store.content.marks import BLOCK_BYTES, MAP_SUFFIX
from wbfs.store.content.sealed import SealedBlob, read_fully, read_in_memory
from wbfs.store.folder import is_at, open_file, store_error, temporary_file

log = logging.getLogger(__name__)

GENERATION_XATTR = "user.wbfs.generation"
"""Where a partial blob's file has its generation, on filesystems that have extended attributes."""
WRITTEN_BYTES = 256 << 10
"""Bytes that are written with one call: the kernel takes memory for them in one piece, and one of 1
MiB costs it four times the processor time of four of these (1.0 s and 0.24 s for 1 GiB)."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOf:
    """A file, and what tells it from another at the same path, for as long as somebody has it."""

    path: Path
    device: int
    inode: int


class LargeBlob:
    """One generation of a large blob's bytes; `held` is what an earlier mount has left of it."""

    def __init__(
        self,
        fd: int,
        path: Path,
        blob: Blob,
        blobs: Blobs,
        *,
        has_map: bool,
        checkpoint: Callable[[], None],
    ) -> None:
        """Take over the open file at `path`, which this process has locked.

        Without a map it is gone once it is closed. Raises StoreError; the file is closed then.
        """
        assert blob.size is not None
        self._fd = fd
        self._path = path
        self._map_path = path.with_name(path.name + MAP_SUFFIX) if has_map else None
        self._blob = blob
        self._blobs = blobs
        self._room = blobs.room
        # Guards what follows, and that the file is closed by the last who uses it.
        self._lock = threading.Lock()
        self._users = 0
        self._is_over = False
        # The kernel writes for one at a time, too; who waits for it there takes processor time.
        self._writing = threading.Lock()
        # One map at a time, and none once it is sealed or discarded.
        self._map_lock = threading.Lock()
        self._digest = (
            RunningDigest(fd, blob.digest.algorithm, checkpoint=checkpoint) if blob.digest else None
        )
        try:
            self.held, self._safe, self.generation = self._resume(blob.size)
        except OSError as error:
            self.close()
            raise store_error(f"open {path}", error) from error

    def __del__(self) -> None:
        self.close()

    def _resume(self, size: int) -> tuple[Extents, list[tuple[int, int]], str]:
        """Go on with what the map says that the file holds, or begin anew with nothing."""
        if self._map_path is not None and os.fstat(self._fd).st_size == size:
            found = _read_map(self._map_path, _identity(self._fd))
            if found is not None and found.held.total:
                return found.held, list(found.safe), found.generation
        if self._map_path is not None:
            self._map_path.unlink(missing_ok=True)
        dropped = os.fstat(self._fd).st_blocks * BLOCK_BYTES
        os.ftruncate(self._fd, 0)
        if dropped:
            self._room.give_back(dropped)
        os.ftruncate(self._fd, size)
        generation = secrets.token_hex(8)
        with contextlib.suppress(OSError):
            # Where there are none, the inode's number has to do.
            os.setxattr(self._fd, GENERATION_XATTR, generation.encode())
        return Extents(), [], generation

    @contextmanager
    def in_use(self) -> Iterator[int]:
        """Give the descriptor, which stays open for as long as the context lasts.

        Raises StoreError where it is closed.
        """
        with self._lock:
            if self._is_over:
                raise StoreError(f"can't use {self._path}: it is closed; open the file again")
            self._users += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._users -= 1
                self._close_unused()

    def _close_unused(self) -> None:
        if self._is_over and not self._users and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Let go of the file; nothing is written to it or read from it any more.

        What has a map stays for a later mount.
        """
        with self._lock:
            if not self._is_over and self._map_path is None and is_at(self._fd, self._path):
                # Else it is tidied up by a later mount.
                with contextlib.suppress(OSError):
                    self._unlink()
            self._is_over = True
            self._close_unused()

    def discard(self) -> None:
        """Remove the file, whose bytes are not the blob's. Raises StoreError."""
        with self.in_use() as fd:
            try:
                # The map first: without it the bytes mean nothing to anybody.
                self._unlink_map()
                if is_at(fd, self._path):
                    self._unlink()
            except OSError as error:
                raise store_error(f"remove {self._path}", error) from error

    def _unlink(self) -> None:
        self._path.unlink(missing_ok=True)
        self._room.give_back(os.fstat(self._fd).st_blocks * BLOCK_BYTES)

    @property
    def file(self) -> FileOf:
        """What `WriterApart` in another process writes to. Raises StoreError."""
        with self.in_use() as fd:
            found = os.fstat(fd)
            return FileOf(path=self._path, device=found.st_dev, inode=found.st_ino)

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        """Put bytes in their place. Raises StoreError, StoreFull."""
        with self.in_use() as fd:
            self._room.add(
                len(piece),
                lambda: self._write(fd, piece, offset),
                doing=f"write {self._path}",
            )

    def _write(self, fd: int, piece: bytes | memoryview, offset: int) -> None:
        with self._writing:
            write_fully(fd, piece, offset)

    def read_in_memory(self, buffer: memoryview, offset: int) -> int:
        """Read what the kernel has in memory; see `sealed.read_in_memory`. Raises StoreError."""
        with self.in_use() as fd:
            return read_in_memory(fd, buffer, offset)

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes at `offset`. Raises StoreError."""
        with self.in_use() as fd:
            read_fully(fd, buffer, offset)

    def save(self, held: list[tuple[int, int]]) -> None:
        """Note what it holds, for a later mount while the machine is up. Raises StoreError."""
        with self.in_use() as fd:
            self._write_map(fd, held, sync=False)

    def flush(self, held: list[tuple[int, int]]) -> None:
        """Wait until it is safely on disk, and note what it holds for good. Raises StoreError."""
        with self.in_use() as fd:
            try:
                os.fdatasync(fd)
            except OSError as error:
                raise store_error(f"write {self._path} to disk", error) from error
            self._safe = held
            self._write_map(fd, held, sync=True)

    def _write_map(self, fd: int, held: list[tuple[int, int]], *, sync: bool) -> None:
        contents = {
            "generation": self.generation,
            "file": _identity(fd),
            "boot": _boot_id(),
            "held": held,
            "safe": self._safe,
        }
        with self._map_lock:
            # Nor where its file was removed: a map would be another's then.
            if self._map_path is None or not is_at(fd, self._path):
                return
            try:
                _replace(self._map_path, json.dumps(contents).encode(), sync=sync)
            except OSError as error:
                raise store_error(f"write {self._map_path}", error) from error

    def _unlink_map(self) -> None:
        """Remove the map; none is written any more. Raises OSError."""
        with self._map_lock:
            path, self._map_path = self._map_path, None
            if path is not None:
                path.unlink(missing_ok=True)

    def check_ahead(self, stop: int) -> None:
        """Take the bytes before `stop`, which nobody writes any more, into the digest already.

        One thread at a time, with `seal`. Raises StoreError.
        """
        with self.in_use():
            if self._digest is None:
                return
            try:
                self._digest.advance(stop)
            except OSError as error:
                raise store_error(f"read {self._path}", error) from error

    def seal(self) -> SealedBlob:
        """Check the digest of all its bytes, give the blob its name, and return it open.

        Where somebody has removed the file, it stays without a name. Raises IntegrityError where
        the bytes are not the blob's, StoreError, StoreFull.
        """
        with self.in_use() as fd:
            size = os.fstat(fd).st_size
            self.check_ahead(size)
            check_content(self._blob, size, self._digest.hexdigest() if self._digest else None)
            if not is_at(fd, self._path):
                return SealedBlob(os.dup(fd))
            sealed = self._blobs.seal(self._path, fd, self._blob)
            with contextlib.suppress(OSError):
                # What has a name of its own needs no other.
                os.removexattr(fd, GENERATION_XATTR)
            try:
                self._unlink_map()
            except OSError as error:
                log.info("a map stays in %s: %s", self._path.parent, error.strerror)
            return sealed


def check_content(blob: Blob, size: int, digest: str | None) -> None:
    """Raise IntegrityError where a size and a hexadecimal digest are not the blob's."""
    if blob.size is not None and size != blob.size:
        raise IntegrityError(f"got {size} bytes where {blob.size} were expected")
    if blob.digest and digest != blob.digest.hex:
        raise IntegrityError(
            f"got bytes of digest {blob.digest.algorithm}:{digest} where {blob.digest} was expected"
        )


def write_fully(fd: int, piece: bytes | memoryview, offset: int) -> None:
    """Write all of a piece at an offset. Raises OSError."""
    view = memoryview(piece)
    while view:
        count = os.pwrite(fd, view[:WRITTEN_BYTES], offset)
        offset += count
        view = view[count:]


def lock_for_writing(fd: int) -> bool:
    """Take the writer's lock on a file; return whether nobody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _identity(fd: int) -> str:
    """Return what tells a generation's file from all others."""
    try:
        return os.getxattr(fd, GENERATION_XATTR).decode()
    except (OSError, UnicodeDecodeError):
        return f"inode {os.fstat(fd).st_ino}"


def _replace(path: Path, contents: bytes, *, sync: bool) -> None:
    fd, temporary = temporary_file(path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(contents)
            file.flush()
            if sync:
                os.fsync(fd)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


class _Map(NamedTuple):
    """What a file holds of which generation, and what of it no power cut can have taken."""

    held: Extents
    safe: Extents
    generation: str


def _read_map(path: Path, identity: str) -> _Map | None:
    """Return what a map says of the file of that identity, as far as it can be trusted now."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            found = json.load(file)
        if found["file"] != identity:
            return None
        safe = Extents((int(start), int(stop)) for start, stop in found["safe"])
        held = Extents((int(start), int(stop)) for start, stop in found["held"])
        return _Map(held if found["boot"] == _boot_id() else safe, safe, str(found["generation"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        # Torn by a power cut: what it says is lost, and fetched again.
        log.warning("can't read %s: %s", path, type(error).__name__)
        return None

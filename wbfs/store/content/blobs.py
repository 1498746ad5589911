"""Sealed blobs: whole files by content, checked before they get their name, never written again.

    blobs/ab/<key>      ab = the first two hexadecimal digits of the digest

A blob is written elsewhere and renamed into `blobs/` once its digest was checked, so that no reader
ever sees a torn file and several daemons may share the directory: writing the same content twice is
harmless. Blocking code, safe to call from any thread.

A power cut can take bytes that the kernel had not written yet from a file that has its name
already. Waiting for the disk would make every small file slow, so a blob that is safely on disk is
marked as such a moment later: its time of modification ends in one nanosecond, or in two where the
file was the wandb SDK's first. One without a mark is hashed again before a later daemon serves it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from weakref import ref

from wbfs.model.entries import Blob
from wbfs.model.errors import NO_DESCRIPTOR
from wbfs.store.bounds.room import Room
from wbfs.store.content.hashing import digest_of
from wbfs.store.content.marks import (
    BLOCK_BYTES,
    OURS_NS,
    SECOND_NS,
    THE_SDKS_NS,
    UNREAD_NS,
    has_mark,
    is_marked,
    is_the_sdks,
)
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.content.sealed import SealedBlob, mark_used
from wbfs.store.folder import (
    disk_of,
    if_offered,
    is_at,
    is_ours,
    make_folders,
    open_file,
    open_known,
    remove_foreign,
    store_error,
)

log = logging.getLogger(__name__)

MOST_UNMARKED = 1 << 16
"""Files that are known to be right without a mark, should the disk never take one."""

_libc = ctypes.CDLL(None, use_errno=True)


class Blobs:
    """The sealed blobs of one cache directory."""

    def __init__(
        self,
        cache_dir: Path,
        sdk_cache: SdkCache,
        *,
        room: Room,
        file_mode: int,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the folder below `cache_dir`, which has that `room`; it is made when it is needed.

        `file_mode` are the permission bits of new blobs: the SDK gives them to the files that it
        copies from its cache. `checkpoint` raises when nobody waits for the work any more. Raises
        StoreError.
        """
        self.room = room
        self._cache_dir = cache_dir
        self._sdk_cache = sdk_cache
        self._file_mode = file_mode
        self._checkpoint = checkpoint
        self._lock = threading.Lock()
        # Files without the mark that this daemon knows to be right, by inode.
        self._unmarked: dict[int, _Unmarked] = {}
        # What is open: one descriptor a content, however many handles there are.
        self._opened: dict[str, ref[SealedBlob]] = {}
        try:
            self._block = disk_of(cache_dir).f_frsize or BLOCK_BYTES
        except OSError as error:
            raise store_error(f"look at the disk of the cache {cache_dir}", error) from error

    def path(self, blob: Blob) -> Path:
        """Where the sealed blob is, or would be."""
        return blob_path(self._cache_dir, blob)

    def open(self, blob: Blob) -> SealedBlob | None:
        """Return the sealed blob, or None where the store hasn't got it or must check it first.

        While it is open nobody evicts it. Raises StoreError.
        """
        reference = self._opened.get(blob.key)
        shared = reference() if reference is not None else None
        if shared is not None:
            found = os.fstat(shared.fd)
            if blob.size in (None, found.st_size) and self._may_use(shared, found):
                return shared
        opened = self._open_known(blob)
        if opened is None:
            return None
        fd, found = opened
        sealed = SealedBlob(fd)
        if not self._may_use(sealed, found):
            return None
        sealed.was_unread = found.st_atime_ns == UNREAD_NS
        self._opened[blob.key] = ref(sealed, partial(self._closed, blob.key))
        return sealed

    def _closed(self, key: str, reference: ref[SealedBlob]) -> None:
        # Were it another's by now, that one would be opened once more, and nothing else.
        if self._opened.get(key) is reference:
            self._opened.pop(key, None)

    def content_size(self, blob: Blob) -> int | None:
        """Return how many bytes `open` would give, which is not noted as a use. Raises StoreError.

        None where it would give None.
        """
        opened = self._open_known(blob)
        if opened is None:
            return None
        fd, found = opened
        os.close(fd)
        return found.st_size if self._is_known(found) else None

    def _may_use(self, sealed: SealedBlob, found: os.stat_result) -> bool:
        """Whether an open file need not be checked first, and stays while it is open."""
        return self._is_known(found) and mark_used(sealed.fd, found)

    def _is_known(self, found: os.stat_result) -> bool:
        """Whether a file of the store is known to be right."""
        unmarked = self._unmarked.get(found.st_ino)
        is_ours_now = unmarked is not None and unmarked.mtime_ns == found.st_mtime_ns
        return is_marked(found) or is_ours_now

    def _open(self, blob: Blob) -> int | None:
        opened = self._open_known(blob)
        return None if opened is None else opened[0]

    def _open_known(self, blob: Blob) -> tuple[int, os.stat_result] | None:
        # Not a Path: one takes as long to make as the file takes to open.
        path = f"{self._cache_dir}/{_place(blob)}"
        try:
            fd, found = open_known(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                raise store_error(f"open the cached blob {path}", error) from error
            # A disk that fails has not got it, for all that a reader cares.
            self.room.note_failure(f"open the cached blob {path}", error)
            return None
        if blob.size is not None and found.st_size != blob.size:
            # A damaged disk, another program's doing, or a manifest with a wrong size.
            os.close(fd)
            log.warning("cached blob %s has not the size that is asked for", path)
            return None
        return fd, found

    def has(self, blob: Blob) -> bool:
        """Whether the blob is here, be it to be checked, so that it need not be fetched."""
        return self._find(blob) is not None or _is_open(self._sdk_cache.open(blob))

    def _find(self, blob: Blob) -> os.stat_result | None:
        try:
            found = os.lstat(f"{self._cache_dir}/{_place(blob)}")
        except OSError:
            return None
        return found if is_ours(found) else None

    def size_of(self, blob: Blob) -> int | None:
        """Return how many bytes of the cache's the blob takes; None where it isn't here.

        What is in the SDK's cache takes none.
        """
        found = self._find(blob)
        if found is None:
            return 0 if _is_open(self._sdk_cache.open(blob)) else None
        return 0 if is_the_sdks(found) else found.st_blocks * BLOCK_BYTES

    def use(self, blob: Blob) -> bool:
        """Note that the blob is used now, more than that it is opened; False where `open` has none.

        Raises StoreError.
        """
        sealed = self.open(blob)
        if sealed is None:
            return False
        # On a disk that is read-only, say.
        with contextlib.suppress(OSError):
            os.utime(sealed.fd, ns=(time.time_ns(), os.fstat(sealed.fd).st_mtime_ns))
        return True

    def rounded(self, size: int) -> int:
        """Return how many bytes of the cache's disk a blob of `size` bytes will take."""
        return -(-size // self._block) * self._block

    def has_unchecked(self, blob: Blob) -> bool:
        """Whether `check` would find something to check: what `open` does not give."""
        return _is_open(self._open(blob)) or _is_open(self._sdk_cache.open(blob))

    def check(self, blob: Blob) -> SealedBlob | None:
        """Return the blob where an unmarked file or the SDK's cache has it and its digest is right.

        Reads all of it. Raises StoreError.
        """
        path = self.path(blob)
        fd = self._open(blob)
        if fd is not None:
            sealed = SealedBlob(fd)
            sealed.was_unread = os.fstat(fd).st_atime_ns == UNREAD_NS
            if not mark_used(fd):
                return None
            if self._is_right(fd, blob):
                self._know(fd, path, OURS_NS)
                return sealed
            log.warning("the cached blob %s is not known to be whole: it is fetched again", path)
            # On a disk that is read-only it stays, and is never served.
            with contextlib.suppress(OSError):
                path.unlink()
        fd = self._sdk_cache.open(blob)
        if fd is None:
            return None
        sealed = SealedBlob(fd)
        if not self._is_right(fd, blob):
            log.warning("the SDK's cached file of %s is damaged: it is fetched again", blob.key)
            return None
        if not is_ours(os.fstat(fd)):
            # Another user's: whoever owns a file may change it.
            return sealed
        try:
            make_folders(path.parent)
            # By descriptor: the SDK may have cleaned up, and another file have the name by now.
            # Only with a folder's descriptor, which stands for nothing here, are links followed.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
            self._know(fd, path, THE_SDKS_NS)
        except OSError as error:
            # On another filesystem, or just removed: the descriptor will do.
            log.debug("%s stays in the SDK's cache only: %s", blob.key, error.strerror)
        mark_used(fd)
        return sealed

    def _is_right(self, fd: int, blob: Blob) -> bool:
        if blob.digest is None:
            return False
        try:
            found = digest_of(fd, blob.digest.algorithm, checkpoint=self._checkpoint)
        except OSError as error:
            log.warning("can't read the cached blob %s: %s", blob.key, error.strerror)
            return False
        return found == blob.digest.hex

    def seal(self, written: Path, fd: int, blob: Blob, *, is_unread: bool = False) -> SealedBlob:
        """Give the checked file `written`, open as `fd`, its name, and return it open.

        What `is_unread` is the first to be evicted, until it is opened. Raises StoreError,
        StoreFull.
        """
        path = self.path(blob)

        def seal() -> SealedBlob:
            # Not by its name, which may be gone with the cache.
            sealed = SealedBlob(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
            with if_offered():
                os.fchmod(fd, self._file_mode)
            if is_unread:
                with if_offered():
                    os.utime(sealed.fd, ns=(UNREAD_NS, time.time_ns()))
            if not is_at(fd, written):
                log.info("%s is not kept: somebody has removed it", written)
                return sealed
            self._know(sealed.fd, path, OURS_NS)
            try:
                written.rename(path)
            except (FileNotFoundError, IsADirectoryError):
                make_folders(path.parent)
                remove_foreign(path)
                written.rename(path)
            # The writer's lock goes, the reader's comes. Not before it has its name: another daemon
            # would go on with the file.
            fcntl.flock(fd, fcntl.LOCK_UN)
            if not is_unread:
                mark_used(sealed.fd)
            return sealed

        return self.room.run(seal, doing=f"seal {path}")

    def drop(self, blob: Blob, sealed: SealedBlob) -> bool:
        """Remove a file that the disk can't read; return whether the blob may be had otherwise."""
        path = self.path(blob)
        reference = self._opened.get(blob.key)
        if reference is not None and reference() is sealed:
            self._opened.pop(blob.key, None)
        try:
            if is_at(sealed.fd, path):
                path.unlink()
        except OSError as error:
            log.warning("%s stays, though it can't be read: %s", path, error.strerror)
            return False
        return True

    def hand_over(self, sealed: SealedBlob) -> Known | None:
        """Return what is known of a file that `seal` has returned, for another process to `trust`.

        It is not known here any more. None where it has no name.
        """
        inode = os.fstat(sealed.fd).st_ino
        with self._lock:
            known = self._unmarked.pop(inode, None)
        return None if known is None else Known(inode, known.mtime_ns)

    def trust(self, blob: Blob, known: Known) -> None:
        """Take a blob for right that another process of this daemon has checked and sealed."""
        path = f"{self._cache_dir}/{_place(blob)}"
        self._note_right(known.inode, _Unmarked(path, known.mtime_ns, OURS_NS))

    def _know(self, fd: int, path: Path, mark_ns: int) -> None:
        """Take the open file at `path` for right, and mark it later."""
        found = os.fstat(fd)
        self._note_right(found.st_ino, _Unmarked(str(path), found.st_mtime_ns, mark_ns))

    def _note_right(self, inode: int, file: _Unmarked) -> None:
        with self._lock:
            while len(self._unmarked) >= MOST_UNMARKED:
                del self._unmarked[next(iter(self._unmarked))]
            self._unmarked[inode] = file

    def flush(self) -> int:
        """Wait until what was sealed is safely on disk, mark it so, and return how many it was.

        Only then does the SDK's cache get it: the SDK trusts a file that has the right size.
        Raises StoreError.
        """
        with self._lock:
            unmarked = {inode: one for inode, one in self._unmarked.items() if one.takes_marks}
        if not unmarked:
            return 0
        try:
            _sync(self._cache_dir)
            marked = {inode: _mark(file, inode) for inode, file in unmarked.items()}
            for inode, file in unmarked.items():
                if marked[inode] is not None and file.mark_ns == OURS_NS:
                    self._sdk_cache.add(Path(file.path))
        except OSError as error:
            raise store_error(f"write the cache {self._cache_dir} to disk", error) from error
        with self._lock:
            for inode, file in unmarked.items():
                mtime_ns = marked[inode]
                if mtime_ns is None or has_mark(mtime_ns):
                    # Another thread may have flushed the same.
                    self._unmarked.pop(inode, None)
                else:
                    # Its filesystem keeps no such times: it is known to this daemon only.
                    self._unmarked[inode] = replace(file, mtime_ns=mtime_ns, takes_marks=False)
        return len(unmarked)


class Known(NamedTuple):
    """A file that is right: its inode, and its time of modification."""

    inode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Unmarked:
    """A file that is right, its time of modification, and with what it is to be marked."""

    path: str
    mtime_ns: int
    mark_ns: int
    takes_marks: bool = True


def _is_open(fd: int | None) -> bool:
    """Whether it is a descriptor; it is closed."""
    if fd is None:
        return False
    os.close(fd)
    return True


def _sync(folder: Path) -> None:
    """Have the folder's filesystem write all it has to its disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def _mark(file: _Unmarked, inode: int) -> int | None:
    """Mark a file and return its time of modification now; None where it isn't this one."""
    try:
        fd = open_file(file.path)
    except FileNotFoundError:
        # Evicted.
        return None
    try:
        found = os.fstat(fd)
        if (found.st_ino, found.st_mtime_ns) != (inode, file.mtime_ns):
            return None
        mtime_ns = found.st_mtime_ns // SECOND_NS * SECOND_NS + file.mark_ns
        with if_offered():
            os.utime(fd, ns=(found.st_atime_ns, mtime_ns))
        return os.fstat(fd).st_mtime_ns
    finally:
        os.close(fd)


def blob_path(cache_dir: Path, blob: Blob) -> Path:
    """Where a sealed blob is in a cache directory, or would be."""
    return cache_dir / _place(blob)


def _place(blob: Blob) -> str:
    return f"blobs/{blob.key.partition('-')[2][:2]}/{blob.key}"

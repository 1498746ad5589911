"""Digests of files on disk. Blocking code."""

from __future__ import annotations

import os
from collections.abc import Callable

from wbfs.model.digests import Algorithm, new_hasher

PIECE_BYTES = 1 << 20


class RunningDigest:
    """The digest of an open file's bytes, taken in order as they become known. One thread."""

    def __init__(self, fd: int, algorithm: Algorithm, *, checkpoint: Callable[[], None]) -> None:
        """`checkpoint` is called between pieces, and raises when nobody waits for the digest."""
        self._fd = fd
        self._hasher = new_hasher(algorithm)
        self._checkpoint = checkpoint
        self._done = 0

    def advance(self, stop: int) -> None:
        """Take the bytes before `stop` that were not taken yet. Raises OSError."""
        buffer = bytearray(PIECE_BYTES)
        view = memoryview(buffer)
        while wanted := min(PIECE_BYTES, stop - self._done):
            count = os.preadv(self._fd, [view[:wanted]], self._done)
            if not count:
                return
            self._hasher.update(view[:count])
            self._done += count
            self._checkpoint()

    def hexdigest(self) -> str:
        """Return the digest of what was taken, in hexadecimal."""
        return self._hasher.hexdigest()


def digest_of(fd: int, algorithm: Algorithm, *, checkpoint: Callable[[], None]) -> str:
    """Return the digest of all of an open file's bytes, in hexadecimal. Raises OSError."""
    digest = RunningDigest(fd, algorithm, checkpoint=checkpoint)
    digest.advance(os.fstat(fd).st_size)
    return digest.hexdigest()

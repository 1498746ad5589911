"""Digests of files on disk. Blocking code."""

from __future__ import annotations

import os
from collections.abc import Callable

from wbfs.model.digests import Algorithm, new_hasher

PIECE_BYTES = 1 << 20


def digest_of(fd: int, algorithm: Algorithm, *, checkpoint: Callable[[], None]) -> str:
    """Return the digest of an open file's bytes, in hexadecimal. Raises OSError.

    `checkpoint` is called between pieces, and raises when nobody waits for the digest any more.
    """
    hasher = new_hasher(algorithm)
    buffer = bytearray(PIECE_BYTES)
    view = memoryview(buffer)
    offset = 0
    while count := os.preadv(fd, [buffer], offset):
        hasher.update(view[:count])
        offset += count
        checkpoint()
    return hasher.hexdigest()

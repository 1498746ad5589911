"""Descriptors kept for the end: to unmount takes some, and others may have all the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

RESERVED = 8
"""The kernel's table of mounts, and the pipes to fusermount3."""


class Reserve:
    """Descriptors that nobody uses."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def take(self) -> None:
        """Open them. Raises OSError."""
        for _ in range(RESERVED):
            self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def free(self) -> None:
        """Leave them to whoever needs one now."""
        while self._fds:
            os.close(self._fds.pop())


@contextmanager
def reserved_descriptors() -> Iterator[Reserve]:
    """Yield descriptors that are free in the end. Raises OSError where there are too few."""
    reserve = Reserve()
    try:
        reserve.take()
        yield reserve
    finally:
        reserve.free()

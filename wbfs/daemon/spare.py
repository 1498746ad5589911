"""Descriptors kept for the end: to unmount takes some, and others may have all the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from wbfs.model.errors import NO_DESCRIPTOR, no_descriptor

SPARE = 8
"""The kernel's table of mounts, and the pipes to fusermount3."""


class Spare:
    """Descriptors that nobody uses."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def take(self) -> None:
        """Open them. Raises OSError."""
        for _ in range(SPARE):
            self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def free(self) -> None:
        """Leave them to whoever needs one now."""
        while self._fds:
            os.close(self._fds.pop())


@contextmanager
def spare_descriptors(doing: str) -> Iterator[Spare]:
    """Yield descriptors that are free in the end. Raises NoDescriptor where there are too few."""
    spare = Spare()
    try:
        spare.take()
        yield spare
    except OSError as error:
        if error.errno in NO_DESCRIPTOR:
            raise no_descriptor(doing) from error
        raise
    finally:
        spare.free()

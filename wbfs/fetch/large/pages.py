"""Which files' pages the kernel keeps of bytes that were not checked. Trio thread.

Bytes are right or wrong a generation at a time. Once a generation was found to be right, what was
served of it is as good as checked; until then the kernel may keep it only for as long as it is what
the store has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

PAST_STORE = ""
"""Stands for the generation of bytes that were read past the store, which nobody checks."""
MOST_KEPT = 10_000
"""Inodes that are remembered; the pages of those that are forgotten are dropped."""
_NONE: frozenset[str] = frozenset()


class UncheckedPages:
    """The generations that inodes were read from before those were whole and checked."""

    def __init__(self, drop: Callable[[frozenset[int]], None]) -> None:
        """`drop` has the kernel forget the pages of inodes."""
        self._drop = drop
        self._generations: OrderedDict[int, set[str]] = OrderedDict()

    def add(self, inode: int, generation: str) -> None:
        """Note that unchecked bytes of a generation were read through an inode."""
        self._generations.setdefault(inode, set()).add(generation)
        self._generations.move_to_end(inode)
        while len(self._generations) > MOST_KEPT:
            forgotten, _ = self._generations.popitem(last=False)
            self._drop(frozenset({forgotten}))

    def of(self, inode: int) -> frozenset[str]:
        """Return the generations that the kernel may have unchecked bytes of."""
        generations = self._generations.get(inode)
        return frozenset(generations) if generations else _NONE

    def forget(self, inode: int) -> None:
        """Note that the kernel drops what it has of an inode."""
        self._generations.pop(inode, None)

    def are_right(self, generation: str) -> None:
        """Note that a generation was checked."""
        for inode in [one for one, found in self._generations.items() if generation in found]:
            self._generations[inode].discard(generation)
            if not self._generations[inode]:
                del self._generations[inode]

    def are_wrong(self, generation: str) -> None:
        """Have the kernel forget what it was given of a generation."""
        wrong = frozenset(one for one, found in self._generations.items() if generation in found)
        for inode in wrong:
            del self._generations[inode]
        if wrong:
            self._drop(wrong)

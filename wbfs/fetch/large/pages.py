"""Which inodes' pages the kernel keeps of bytes that are not checked yet. Trio thread."""

from __future__ import annotations

from collections.abc import Callable


class UncheckedPages:
    """The inodes that large files were read through before they were whole, by content."""

    def __init__(self, drop: Callable[[frozenset[int]], None]) -> None:
        """`drop` has the kernel forget the pages of inodes."""
        self._drop = drop
        self._inodes: dict[str, set[int]] = {}

    def add(self, key: str, inode: int) -> None:
        """Note that bytes of the blob `key` were read through `inode`."""
        self._inodes.setdefault(key, set()).add(inode)

    def are_right(self, key: str) -> None:
        """Note that the blob was checked."""
        self._inodes.pop(key, None)

    def are_wrong(self, key: str) -> None:
        """Have the kernel forget what it was given of the blob."""
        if inodes := self._inodes.pop(key, None):
            self._drop(frozenset(inodes))

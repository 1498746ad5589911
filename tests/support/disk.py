"""What files take of a disk, while others come and go."""

from __future__ import annotations

import os
from pathlib import Path


def taken(folder: Path) -> int:
    """Return what files below a folder take at one moment, as `du` counts it, or little less.

    That moment is between two looks at each file, since one walk may find a file that is removed
    before the walk comes to another one, which is made in its place.
    """
    first = {path: _blocks(path) for path in _files(folder)}
    second = {path: _blocks(path) for path in first}
    return sum(min(blocks, second[path]) for path, blocks in first.items())


def _files(folder: Path) -> list[str]:
    return [f"{where}/{name}" for where, _, names in os.walk(folder) for name in names]


def _blocks(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0

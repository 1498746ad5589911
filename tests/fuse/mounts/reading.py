"""What a trainer's workers do: read files, and nothing else; this imports no SDK."""

from __future__ import annotations

import mmap
import os
from pathlib import Path


def read(folder: str, epochs: int = 1) -> None:
    """Read all files below a folder, so many times."""
    for _ in range(epochs):
        for path in sorted(Path(folder).rglob("*.txt")):
            path.read_bytes()


def map_pages(folder: str) -> None:
    """Look at a file's bytes in memory, as those do who never read."""
    with open(Path(folder, "0.txt"), "rb") as file:
        assert mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[0]


def fork(folder: str) -> None:
    """Read in a child."""
    pid = os.fork()
    if pid == 0:
        read(folder)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

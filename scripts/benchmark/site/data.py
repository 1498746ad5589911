"""The files that all contenders read, made below one folder, a folder for each artifact."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LARGE = "model.safetensors"
PIECE_BYTES = 4 << 20
FOLDER_FILES = 1000
MILLION_FOLDER_FILES = 800
HEADER_BYTES = 128 << 10
TENSOR_BYTES = (4 << 20, 2 << 20, 8 << 10)
TRAIN_BYTES = (8 << 10, 64 << 10)
"""How many bytes a file of `train` has, at least and at most."""
BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much there is to read, by artifact.

    large: bytes of the one file of `large`. small_files, small_bytes: how many files `small` has,
    and of which size. train_files: how many `train` has, of TRAIN_BYTES. tree_files: how many
    entries `tree` has, all of them the same few bytes. million_files: how many `million` has,
    which has no files on this disk. growing: how many files the smallest of those has that grow.
    """

    large: int
    small_files: int
    train_files: int
    tree_files: int
    million_files: int
    growing: int
    small_bytes: int = 16 << 10

    def needed(self, artifacts: frozenset[str]) -> int:
        """Bytes of disk that a run may take: each has its cache, or its copy, and the server."""
        sizes = {
            "large": 6 * self.large,
            "small": 12 * self.small_files * self.small_bytes,
            "train": 4 * self.train_files * (sum(TRAIN_BYTES) // 2 + BLOCK_BYTES),
            "tree": 2 * self.tree_files * BLOCK_BYTES,
            "million": 1000 * self.million_files,
            "growing": 300 * BLOCK_BYTES * self.growing,
        }
        return sum(sizes[name] for name in artifacts)


def make(name: str, folder: Path, sizes: Sizes) -> None:
    """Make the files of an artifact, the same in each run."""
    folder.mkdir()
    chance = random.Random(name)
    if name == "large":
        _write_safetensors(folder / LARGE, sizes.large)
    elif name == "small":
        for path in _numbered(folder, sizes.small_files):
            path.write_bytes(chance.randbytes(sizes.small_bytes))
    elif name == "train":
        for path in _numbered(folder, sizes.train_files):
            path.write_bytes(chance.randbytes(chance.randint(*TRAIN_BYTES)))
    elif name == "tree":
        for path in _numbered(folder, sizes.tree_files):
            path.write_bytes(b"all the same\n")


def million_shape(sizes: Sizes) -> tuple[int, int, int]:
    """Return what `million` has: folders, files in each, and files in one folder beside them."""
    largest = sizes.million_files // 5
    folders = max(1, (sizes.million_files - largest) // MILLION_FOLDER_FILES)
    return folders, (sizes.million_files - largest) // folders, largest


def files_below(folder: Path) -> Iterator[Path]:
    """Yield a folder's files, at any depth."""
    return (path for path in folder.rglob("*") if path.is_file())


def _numbered(folder: Path, count: int) -> Iterator[Path]:
    """Yield the paths of that many files, in folders of FOLDER_FILES."""
    for number in range(count):
        if number % FOLDER_FILES == 0:
            (folder / f"{number // FOLDER_FILES:03}").mkdir()
        yield folder / f"{number // FOLDER_FILES:03}" / f"{number:06}.bin"


def _write_safetensors(path: Path, size: int) -> None:
    """Write a file of that many bytes laid out as a model is: length, JSON header, tensors.

    Its tensors are of the sizes of a transformer's: large ones, and small ones between them.
    """
    chance = random.Random("large")
    room = size - HEADER_BYTES
    lengths: list[int] = []
    for length in itertools.cycle(TENSOR_BYTES):
        if room <= 0:
            break
        lengths.append(min(length, room))
        room -= lengths[-1]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for number, length in enumerate(lengths):
        header[f"layers.{number}.weight"] = {
            "dtype": "U8",
            "shape": [length],
            "data_offsets": [start, start + length],
        }
        start += length
    text = json.dumps(header).encode()
    text += b" " * (size - start - 8 - len(text))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while start:
            piece = chance.randbytes(min(start, PIECE_BYTES))
            start -= file.write(piece)

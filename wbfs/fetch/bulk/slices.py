"""A version's entries that a prefix picks, a few hundred at a time, one folder after the other.

Trio thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice

import trio

from wbfs.model.entries import Entry
from wbfs.store.known.manifest_table import ROOT_FOLDER, File, ManifestTable

SLICE_FILES = 256
"""Entries of one folder that are taken together, and their bytes."""
SLICE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Slice:
    """Some files of one folder, whose path ends in a slash or is empty."""

    folder: str
    files: list[File]

    @property
    def entries(self) -> list[Entry]:
        """Their entries."""
        return [file.entry for file in self.files]

    @property
    def size(self) -> int:
        """Their bytes, as far as they are known."""
        return sum(file.entry.size or 0 for file in self.files)


class OneFile:
    """What `Slices` is for a folder: the slices of a single file."""

    def __init__(self, file: File) -> None:
        path = file.entry.path
        self._slice: Slice | None = Slice(path[: len(path) - len(file.name)], [file])

    async def next(self) -> Slice | None:
        """Return the file at first, then None."""
        piece, self._slice = self._slice, None
        return piece


class Slices:
    """The slices of what is below one prefix of a version's paths."""

    def __init__(self, manifest: Callable[[], Awaitable[ManifestTable]], path_prefix: str) -> None:
        """`manifest` returns the version's table, to be used before the next await."""
        self._manifest = manifest
        self._prefix = path_prefix
        # Folders to come at each depth: their numbers, and the path that they are in.
        self._to_come: list[tuple[range, str]] = [(range(ROOT_FOLDER, ROOT_FOLDER + 1), "")]
        self._folder = ROOT_FOLDER
        self._path = ""
        self._taken = 0
        self._left = 0

    async def next(self) -> Slice | None:
        """Return the next slice, None at the end. Raises WbfsError."""
        while self._left or self._to_come:
            # A manifest with no end of folders holds up nobody else.
            await trio.lowlevel.checkpoint()
            if self._left:
                files = await self._take()
                if files:
                    return Slice(self._path, files)
            else:
                await self._enter()
        return None

    async def _take(self) -> list[File]:
        table = await self._manifest()
        folder = table.folder(self._folder)
        assert folder is not None
        files: list[File] = []
        size = 0
        for file in islice(table.files(folder, self._taken), SLICE_FILES):
            self._taken += 1
            self._left -= 1
            if file.entry.path.startswith(self._prefix):
                files.append(file)
                size += file.entry.size or 0
                if size >= SLICE_BYTES:
                    break
        return files

    async def _enter(self) -> None:
        """Go to the next folder, unless the prefix picks nothing in it."""
        numbers, parent = self._to_come.pop()
        if not numbers:
            return
        self._to_come.append((numbers[1:], parent))
        table = await self._manifest()
        folder = table.folder(numbers[0])
        assert folder is not None
        path = f"{parent}{folder.name}/" if folder.id != ROOT_FOLDER else ""
        if path.startswith(self._prefix) or self._prefix.startswith(path):
            first = folder.first_folder
            self._to_come.append((range(first, first + folder.folder_count), path))
            self._folder, self._path = folder.id, path
            self._taken, self._left = 0, folder.file_count

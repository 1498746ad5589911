"""A version's folder while it is listed: rows of the manifest's table, without an object a name.

A folder may have hundreds of thousands of names, and the kernel asks for them a few hundred at a
time, with all attributes. What a row shows is therefore put together from as little as there is,
and rows are read a chunk at a time; the chunks used last stay in memory, within a bound.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import trio

from wbfs.fs.inodes import Inode, TreeKey, inode_of
from wbfs.fs.nodes import FolderDirectory, VersionDirectory
from wbfs.model.entries import Version
from wbfs.store.known.manifest_table import Folder, ManifestTable

CHUNK = 512
"""Rows that are read at once; three times what one answer to the kernel holds."""
MAX_BYTES = 24 << 20
"""Memory for rows: a second walk over a hundred thousand names takes two thirds of the time."""
ROW_BYTES = 180
"""What a row takes beside the bytes of its name, and a chunk beside its rows."""

Row = tuple[int, bytes, Inode, int | None]
"""A position, the name there, its inode number, and its size; None for a subfolder.

The size is below 0 where it isn't sure; see `wbfs.store.known.manifest_table.size_in_row`.
"""
Shows = Callable[[str, bool], bool]
"""Whether a name is shown, given that it is a folder's or not."""
_position = itemgetter(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFolder:
    """A folder that is open, of the version `version`, believed until a moment of trio's clock.

    The keys are those of its subfolders' and of its files' inode numbers.
    """

    node: VersionDirectory | FolderDirectory
    version: Version
    folder: Folder
    folder_key: TreeKey
    file_key: TreeKey
    valid_until: float

    @property
    def ttl_s(self) -> float:
        """For how many more seconds the names may be believed."""
        return self.valid_until - trio.current_time()

    @property
    def count(self) -> int:
        """How many names it has, with those that a path prefix leaves out."""
        return self.folder.folder_count + self.folder.file_count

    def rows(self, table: ManifestTable, skip: int) -> Iterator[Row]:
        """Yield the subfolders and then the files, by name, without the first `skip`.

        A row's position is how many there are up to it.
        """
        folder, position = self.folder, skip
        inode = inode_of(self.folder_key, folder.first_folder + skip)
        for (name,) in table.folder_names(folder, skip):
            position += 1
            yield position, name.encode(), inode, None
            inode = Inode(inode + 1)
        skip = max(0, skip - folder.folder_count)
        inode = inode_of(self.file_key, folder.first_file + skip)
        for name, size in table.file_sizes(folder, skip):
            position += 1
            yield position, name.encode(), inode, size
            inode = Inode(inode + 1)


class FolderRows:
    """The rows of all folders that were listed last; what is below a version never changes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._chunks: OrderedDict[tuple[TreeKey, int, int], list[Row]] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0

    def after(
        self, opened: OpenFolder, skip: int, table: ManifestTable, shows: Shows | None
    ) -> Sequence[Row]:
        """Return a folder's rows from behind the first `skip` to the end of a chunk.

        `shows` tells which names are shown, always the same ones; None is for all.
        """
        start = chunk_end(skip) - CHUNK
        key = opened.folder_key, opened.folder.id, start
        chunk = self._chunks.get(key)
        if chunk is None:
            rows = islice(opened.rows(table, start), CHUNK)
            chunk = [row for row in rows if shows is None or shows(row[1].decode(), row[3] is None)]
            self._add(key, chunk)
        else:
            self._chunks.move_to_end(key)
        return chunk[bisect_right(chunk, skip, key=_position) :]

    def _add(self, key: tuple[TreeKey, int, int], chunk: list[Row]) -> None:
        self._chunks[key] = chunk
        self._bytes += _bytes_of(chunk)
        while self._bytes > self._max_bytes:
            self._bytes -= _bytes_of(self._chunks.popitem(last=False)[1])


def chunk_end(position: int) -> int:
    """Return where the chunk ends in which the row behind `position` is."""
    return position - position % CHUNK + CHUNK


def _bytes_of(chunk: list[Row]) -> int:
    return (len(chunk) + 1) * ROW_BYTES + sum(len(row[1]) for row in chunk)

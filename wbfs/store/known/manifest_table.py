"""The table of one version: a manifest as an immutable SQLite file, so that entries cost no memory.

Folders are numbered so that the subfolders of one folder, and its files, have consecutive numbers
in the order of their names. A listing is then a scan of a range, a position in it is a number, and
the numbers are the same in every mount, since only the manifest decides them. Blocking code; the
look-ups take microseconds and may be made from any one thread at a time.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import xxhash

from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, LeftOut, Reference
from wbfs.model.errors import StoreError
from wbfs.store.content.sealed import mark_used
from wbfs.store.folder import open_file
from wbfs.store.known.failures import sqlite_failure

ROOT_FOLDER = 0
FOLDER_PATHS = 128
"""Folders whose paths an open table remembers: of one folder many files are opened."""

KINDS = 128
"""Kinds of files that an open table remembers: most manifests have one or two."""
CACHE_KIB = 256
"""Memory that an open table keeps pages of its file in; the kernel has them too."""

FORMAT = 6
"""What `about` says of a table as `wbfs.store.known.manifest_writer` writes it."""
CHECKSUM_AT = 60
"""Where a table's file has the checksum of the rest of it: there SQLite's format has room for a
number of a program's own (sqlite.org/fileformat2.html, 1.3.13)."""
CHECKSUM_BYTES = 4
PIECE = 1 << 20
"""Bytes that are read at a time for the checksum."""
UNSIZED = -1
"""What stands for the size of a file that nothing is known of."""
_COLUMNS = "id, folder, name, size, digest, kind, uri, token, etag, version_id"
_FILES = f"SELECT {_COLUMNS} FROM files LEFT JOIN links ON file = id"

_BELOW = (
    "WITH RECURSIVE below(number) AS (SELECT ? UNION"
    " SELECT folders.id FROM folders JOIN below ON parent = number)"
    f" SELECT {_COLUMNS} FROM below JOIN files ON folder = number LEFT JOIN links ON file = id"
)


def size_in_row(size: int | None, *, is_hint: bool) -> int:
    """Return how a table holds a file's size: below 0, as its complement, where it may be another.

    None is UNSIZED.
    """
    return UNSIZED if size is None else ~size if is_hint else size


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of a manifest: its number and the numbers of what is in it."""

    id: int
    parent: int
    name: str
    first_folder: int
    folder_count: int
    first_file: int
    file_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a manifest: its number, its folder's, and its entry."""

    id: int
    folder: int
    name: str
    entry: Entry


class Found(NamedTuple):
    """What a name is: its number, and a file's size as `size_in_row` gives it."""

    id: int
    size: int
    is_folder: bool


class ManifestTable:
    """The tree of one version; `version_path` is the path that it was first resolved by.

    The numbers in two tables mean the same files and folders where their `fingerprint` is equal.
    """

    def __init__(self, path: Path) -> None:
        """Open the table at `path`, and check it. Raises StoreError, OSError.

        What another version of wbfs has written is not there: FileNotFoundError.
        """
        self.path = path
        # Once a look-up has failed the table is of no more use: the file may be damaged.
        self.has_failed = False
        self._doing = f"read the cached manifest {path}"
        # Held open and locked, so that it isn't evicted meanwhile.
        self._pin = open_file(path)
        self._kind = lru_cache(KINDS)(self._find_kind)
        self._path_to = lru_cache(FOLDER_PATHS)(self._find_path_to)
        try:
            if not mark_used(self._pin):
                raise FileNotFoundError(f"{path} is being removed")
            checksum = os.pread(self._pin, CHECKSUM_BYTES, CHECKSUM_AT)
            if checksum == bytes(CHECKSUM_BYTES):
                raise FileNotFoundError(f"{path} is of another version of wbfs")
            if checksum != _checksum_of(self._pin):
                raise StoreError(f"can't {self._doing}: it is damaged")
            self._db = _connect(path, self._doing)
        except BaseException:
            os.close(self._pin)
            raise
        try:
            about = self._row("SELECT * FROM about")
            if about is None or about[0] != FORMAT:
                raise FileNotFoundError(f"{path} is of another version of wbfs")
        except BaseException:
            self.close()
            raise
        self.fingerprint: bytes
        _, self.version_path, self._artifact, self.fingerprint, left_out, report = about
        self.left_out = LeftOut(left_out, map(tuple, json.loads(report)))

    def close(self) -> None:
        """Close the table's file."""
        self._db.close()
        os.close(self._pin)

    def pending(self, limit: int) -> list[str]:
        """Return ids, as references have them, of artifacts whose files' sizes aren't filled in.

        Which of them, and in which order, is left to chance: no few are to keep others waiting.
        """
        rows = self._rows("SELECT artifact_id FROM pending ORDER BY random() LIMIT ?", (limit,))
        return [artifact_id for (artifact_id,) in rows]

    @property
    def is_complete(self) -> bool:
        """Whether no sizes are pending."""
        return self._row("SELECT 1 FROM pending LIMIT 1") is None

    def entries(self) -> Iterator[Entry]:
        """Yield every file's entry, without the folders of its path."""
        rows = self._rows(f"{_FILES} ORDER BY id")
        return (self._file_of(row, "").entry for row in rows)

    def folder(self, number: int) -> Folder | None:
        """Return the folder of that number."""
        return self._folder("id = ?", (number,))

    def file(self, number: int) -> File | None:
        """Return the file of that number."""
        return self._file("id = ?", (number,))

    def folder_by_name(self, parent: int, name: str) -> Folder | None:
        """Return the folder `name` in the folder `parent`."""
        return self._folder("parent = ? AND name = ?", (parent, name))

    def file_by_name(self, folder: int, name: str) -> File | None:
        """Return the file `name` in the folder."""
        return self._file("folder = ? AND name = ?", (folder, name))

    def files(self, folder: Folder, skip: int = 0) -> Iterator[File]:
        """Yield the files of the folder by name, without the first `skip`."""
        return self.files_between(folder.first_file + skip, folder.first_file + folder.file_count)

    def files_between(self, first: int, stop: int) -> Iterator[File]:
        """Yield the files of those numbers, whose folders may be several."""
        rows = self._rows(f"{_FILES} WHERE id >= ? AND id < ? ORDER BY id", (first, stop))
        return (self._file_of(row, self._path_to(row[1])) for row in rows)

    def folder_at(self, path: str) -> Folder | None:
        """Return the folder at `path`, empty for the topmost; None where there is none."""
        folder = self.folder(ROOT_FOLDER)
        for name in path.split("/") if path else ():
            folder = self.folder_by_name(folder.id, name) if folder else None
        return folder

    def entries_below(self, path: str) -> Iterator[Entry]:
        """Yield the entries of all files below the folder at `path`, empty for the whole tree."""
        folder = self.folder_at(path)
        rows = self._rows(_BELOW, (folder.id if folder else None,))
        return (self._file_of(row, self._path_to(row[1])).entry for row in rows)

    def find(self, folder: int, name: str) -> Found | None:
        """Return what `name` is in the folder of that number."""
        row = self._row(
            "SELECT id, size, 0 FROM files WHERE folder = ? AND name = ?"
            " UNION ALL SELECT id, 0, 1 FROM folders WHERE parent = ? AND name = ?",
            (folder, name, folder, name),
        )
        return None if row is None else Found(*row)

    def folder_names(self, folder: Folder, skip: int = 0) -> Iterator[tuple[str]]:
        """Yield the names of the subfolders in their order, without the first `skip`."""
        first, stop = folder.first_folder + skip, folder.first_folder + folder.folder_count
        return self._rows(
            "SELECT name FROM folders WHERE id >= ? AND id < ? ORDER BY id", (first, stop)
        )

    def unsized(self, folder: int, behind: int, count: int) -> list[File]:
        """Return up to `count` files of a folder, behind one, whose sizes are not known."""
        rows = self._rows(
            f"{_FILES} WHERE folder = ? AND id > ? AND size < 0 ORDER BY id LIMIT ?",
            (folder, behind, count),
        )
        prefix = self._path_to(folder)
        return [self._file_of(row, prefix) for row in rows]

    def file_sizes(self, folder: Folder, skip: int = 0) -> Iterator[tuple[str, int]]:
        """Yield the names and sizes of the files in their order, without the first `skip`.

        The sizes are as `size_in_row` gives them.
        """
        first, stop = folder.first_file + skip, folder.first_file + folder.file_count
        return self._rows(
            "SELECT name, size FROM files WHERE id >= ? AND id < ? ORDER BY id", (first, stop)
        )

    def has_name(self, folder: int, prefix: str) -> bool:
        """Whether the name of anything in the folder starts with `prefix`."""
        names = self._rows(
            "SELECT min(name) FROM files WHERE folder = ? AND name >= ?"
            " UNION ALL SELECT min(name) FROM folders WHERE parent = ? AND name >= ?",
            (folder, prefix, folder, prefix),
        )
        return any(name is not None and name.startswith(prefix) for (name,) in names)

    def folder_path(self, number: int) -> tuple[str, ...]:
        """Return the components of the folder's path in the artifact."""
        names: list[str] = []
        folder = self.folder(number)
        while folder is not None and folder.id != ROOT_FOLDER:
            names.append(folder.name)
            folder = self.folder(folder.parent)
        return tuple(reversed(names))

    def entry(self, path: str) -> Entry | None:
        """Return the entry at `path`, which is relative and `/`-separated."""
        file = self._file_at(path)
        return file.entry if file else None

    def paths_behind(self, path: str, count: int) -> list[str]:
        """Return the paths of up to `count` files that follow the one at `path` in its folder.

        References are left out: W&B has no bytes of theirs.
        """
        file = self._file_at(path)
        folder = self.folder(file.folder) if file else None
        if file is None or folder is None:
            return []
        rows = self._rows(
            "SELECT name FROM files LEFT JOIN links ON file = id"
            " WHERE id > ? AND id < ? AND uri IS NULL ORDER BY id LIMIT ?",
            (file.id, folder.first_file + folder.file_count, count),
        )
        prefix = path[: len(path) - len(file.name)]
        return [prefix + name for (name,) in rows]

    def _file_at(self, path: str) -> File | None:
        above, _, name = path.rpartition("/")
        folder = self.folder_at(above)
        return self.file_by_name(folder.id, name) if folder else None

    def _folder(self, where: str, values: tuple[int | str, ...]) -> Folder | None:
        row = self._row(f"SELECT * FROM folders WHERE {where}", values)
        return None if row is None else _folder_of(row)

    def _file(self, where: str, values: tuple[int | str, ...]) -> File | None:
        row = self._row(f"{_FILES} WHERE {where}", values)
        if row is None:
            return None
        return self._file_of(row, self._path_to(row[1]))

    def _file_of(self, row: tuple[Any, ...], prefix: str) -> File:
        number, folder, name, size, digest, kind, uri, token, etag, version_id = row
        algorithm, birth_artifact_id = self._kind(kind)
        reference = None
        if uri is not None:
            reference = Reference(uri=uri, token=token, etag=etag, version_id=version_id)
        entry = Entry(
            path=prefix + name,
            size=size if size >= 0 else ~size or None,
            size_is_hint=size < UNSIZED,
            digest=None if digest is None else Digest(algorithm, digest.hex()),
            reference=reference,
            birth_artifact_id=birth_artifact_id,
            artifact=self._artifact if reference is not None and reference.unchecked else "",
        )
        return File(id=number, folder=folder, name=name, entry=entry)

    def _row(self, query: str, values: tuple[int | str, ...] = ()) -> tuple[Any, ...] | None:
        return next(self._rows(query, values), None)

    def _rows(self, query: str, values: tuple[int | str | None, ...] = ()) -> Iterator[Any]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.Error as error:
            self.has_failed = True
            raise sqlite_failure(self._doing, error) from error

    def _find_kind(self, number: int) -> tuple[Algorithm, str]:
        row = self._row("SELECT algorithm, birth_artifact_id FROM kinds WHERE id = ?", (number,))
        if row is None:
            raise StoreError(f"a cached manifest is damaged: it has files of no kind ({number})")
        return Algorithm(row[0]), row[1]

    def _find_path_to(self, folder: int) -> str:
        if self.folder(folder) is None:
            raise StoreError(f"a cached manifest is damaged: it has files in no folder ({folder})")
        return "".join(f"{name}/" for name in self.folder_path(folder))


def _folder_of(row: tuple[int, int, str, int, int, int, int]) -> Folder:
    number, parent, name, first_folder, folder_count, first_file, file_count = row
    return Folder(
        id=number,
        parent=parent,
        name=name,
        first_folder=first_folder,
        folder_count=folder_count,
        first_file=first_file,
        file_count=file_count,
    )


def _connect(path: Path, doing: str) -> sqlite3.Connection:
    try:
        # The file never changes, so SQLite needs no locks. It is opened in a worker thread and then
        # read by one thread at a time.
        db = sqlite3.connect(
            f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1",
            uri=True,
            check_same_thread=False,
        )
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    except sqlite3.Error as error:
        raise sqlite_failure(doing, error) from error
    return db


def write_checksum(path: Path) -> None:
    """Have the table at `path`, which is complete, be known for what it is. Raises OSError."""
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), _checksum_of(file.fileno()), CHECKSUM_AT)


def _checksum_of(fd: int) -> bytes:
    """Return the checksum of all bytes of a table but those of the checksum. Raises OSError."""
    checksum = xxhash.xxh3_64()
    place = slice(CHECKSUM_AT, CHECKSUM_AT + CHECKSUM_BYTES)
    position = 0
    while piece := os.pread(fd, PIECE, position):
        if not position:
            first = bytearray(piece)
            first[place] = bytes(CHECKSUM_BYTES)
            piece = bytes(first)
        checksum.update(piece)
        position += len(piece)
    return checksum.digest()[:CHECKSUM_BYTES]

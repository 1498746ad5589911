"""Manifests on disk: one immutable SQLite table a version, so that entries cost no memory.

    manifests/<server>/<artifact id>.sqlite

Folders are numbered so that the subfolders of one folder, and its files, have consecutive numbers
in the order of their names. A listing is then a scan of a range, a position in it is a number, and
the numbers are the same in every mount, since only the manifest decides them. Blocking code; the
look-ups take microseconds and may be made from any one thread at a time.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, Manifest, Reference, Version
from wbfs.model.errors import StoreError
from wbfs.model.names import is_safe_component
from wbfs.store.blobs import make_folder, mark_used, store_error

log = logging.getLogger(__name__)

ROOT_FOLDER = 0
MAX_ROWS = 1 << 24
"""Files, and folders, that one manifest may have: an inode number has 24 bits for them."""
MAX_REPORTED = 100
"""Left-out entries that are kept by name; the rest are counted."""

_FORMAT = 2
_SCHEMA = """
CREATE TABLE about (format INTEGER, version TEXT, left_out INTEGER, report TEXT);
CREATE TABLE folders (
    id INTEGER PRIMARY KEY, parent INTEGER, name TEXT,
    first_folder INTEGER, folder_count INTEGER, first_file INTEGER, file_count INTEGER);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, folder INTEGER, name TEXT, size INTEGER,
    algorithm TEXT, digest BLOB, birth_artifact_id TEXT,
    uri TEXT, token TEXT, etag TEXT, version_id TEXT);
"""
_INDEXES = """
CREATE UNIQUE INDEX folders_by_name ON folders (parent, name);
CREATE UNIQUE INDEX files_by_name ON files (folder, name);
"""
_FILE_COLUMNS = (
    "id, folder, name, size, algorithm, digest, birth_artifact_id, uri, token, etag, version_id"
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """The entries that a manifest has and the tree doesn't: how many, and some with the reason."""

    count: int
    report: tuple[tuple[str, str], ...]


class ManifestTable:
    """The tree of one version; `version_path` is the path that it was first resolved by."""

    def __init__(self, path: Path) -> None:
        """Open the table at `path`. Raises StoreError, FileNotFoundError."""
        # Held open and locked, so that it isn't evicted meanwhile.
        self._pin = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # The file never changes, so SQLite needs no locks. It is opened in a worker thread and then
        # read by one thread at a time.
        self._db = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        try:
            if not mark_used(self._pin):
                raise FileNotFoundError(f"{path} is being removed")
            about = self._db.execute("SELECT * FROM about").fetchone()
            if about is None or about[0] != _FORMAT:
                raise FileNotFoundError(f"{path} is of another version of wbfs")
        except sqlite3.Error as error:
            self.close()
            raise StoreError(f"can't read the cached manifest {path}: {error}") from error
        except FileNotFoundError:
            self.close()
            raise
        _, self.version_path, left_out, report = about
        reasons = tuple((name, reason) for name, reason in json.loads(report))
        self.left_out = LeftOut(count=left_out, report=reasons)

    def close(self) -> None:
        """Close the table's file."""
        self._db.close()
        os.close(self._pin)

    def entries(self) -> Iterator[Entry]:
        """Yield every file's entry, without the folders of its path."""
        rows = self._db.execute(f"SELECT {_FILE_COLUMNS} FROM files ORDER BY id")
        return (_file_of(row, "").entry for row in rows)

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

    def folders(self, folder: Folder, skip: int = 0) -> Iterator[Folder]:
        """Yield the subfolders by name, without the first `skip`."""
        first, stop = folder.first_folder + skip, folder.first_folder + folder.folder_count
        rows = self._db.execute(
            "SELECT * FROM folders WHERE id >= ? AND id < ? ORDER BY id", (first, stop)
        )
        return (_folder_of(row) for row in rows)

    def files(self, folder: Folder, skip: int = 0) -> Iterator[File]:
        """Yield the files of the folder by name, without the first `skip`."""
        first, stop = folder.first_file + skip, folder.first_file + folder.file_count
        prefix = self._prefix(folder)
        rows = self._db.execute(
            f"SELECT {_FILE_COLUMNS} FROM files WHERE id >= ? AND id < ? ORDER BY id", (first, stop)
        )
        return (_file_of(row, prefix) for row in rows)

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
        if file is None:
            return []
        rows = self._db.execute(
            "SELECT name FROM files WHERE folder = ? AND id > ? AND uri IS NULL"
            " ORDER BY id LIMIT ?",
            (file.folder, file.id, count),
        )
        prefix = path[: len(path) - len(file.name)]
        return [prefix + name for (name,) in rows]

    def _file_at(self, path: str) -> File | None:
        *folders, name = path.split("/")
        number = ROOT_FOLDER
        for part in folders:
            folder = self.folder_by_name(number, part)
            if folder is None:
                return None
            number = folder.id
        return self.file_by_name(number, name)

    def _folder(self, where: str, values: tuple[int | str, ...]) -> Folder | None:
        row = self._db.execute(f"SELECT * FROM folders WHERE {where}", values).fetchone()
        return None if row is None else _folder_of(row)

    def _file(self, where: str, values: tuple[int | str, ...]) -> File | None:
        row = self._db.execute(
            f"SELECT {_FILE_COLUMNS} FROM files WHERE {where}", values
        ).fetchone()
        if row is None:
            return None
        folder = self.folder(row[1])
        if folder is None:
            raise StoreError(f"a cached manifest is damaged: its file {row[2]!r} has no folder")
        return _file_of(row, self._prefix(folder))

    def _prefix(self, folder: Folder) -> str:
        return "".join(f"{name}/" for name in self.folder_path(folder.id))


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


def _file_of(row: tuple[object, ...], prefix: str) -> File:
    number, folder, name, size, algorithm, digest, birth, uri, token, etag, version_id = row
    assert isinstance(number, int)
    assert isinstance(folder, int)
    assert isinstance(name, str)
    assert size is None or isinstance(size, int)
    reference = None
    if uri is not None:
        reference = Reference(
            uri=str(uri), token=str(token), etag=str(etag), version_id=str(version_id)
        )
    entry = Entry(
        path=prefix + name,
        size=size,
        digest=Digest(Algorithm(str(algorithm)), digest.hex())
        if isinstance(digest, bytes)
        else None,
        reference=reference,
        birth_artifact_id=str(birth),
    )
    return File(id=number, folder=folder, name=name, entry=entry)


class Manifests:
    """The manifest tables of one server in a cache directory."""

    def __init__(self, cache_dir: Path, server: str) -> None:
        """Open, or make, the folder; `server` is the W&B host, since ids are unique per server."""
        self._folder = cache_dir / "manifests" / quote(server, safe="")
        make_folder(self._folder)

    def _path(self, artifact_id: str) -> Path:
        return self._folder / f"{quote(artifact_id, safe='')}.sqlite"

    def open(self, artifact_id: str) -> ManifestTable | None:
        """Return the table of a version, or None where there is none that can be used."""
        path = self._path(artifact_id)
        try:
            return ManifestTable(path)
        except FileNotFoundError:
            return None
        except StoreError as error:
            log.warning("%s; it is fetched again", error)
            return None

    def add(self, version: Version, manifest: Manifest) -> ManifestTable:
        """Write the table of a version and return it. Raises StoreError, StoreFull."""
        path = self._path(version.id)
        try:
            fd, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=self._folder)
            os.close(fd)
            temporary = Path(name)
            try:
                _write(temporary, version.path, manifest)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(f"write the manifest {path}", error) from error
        except sqlite3.Error as error:
            raise StoreError(f"can't write the manifest {path}: {error}") from error
        return ManifestTable(path)


def _write(path: Path, version_path: str, manifest: Manifest) -> None:
    """Write a manifest's table: only what has a safe path that is not at odds with another's."""
    left_out = list(manifest.unreadable)
    safe: dict[tuple[str, ...], Entry] = {}
    for entry in manifest.entries:
        parts = tuple(entry.path.split("/"))
        if reason := _unsafe(parts):
            left_out.append((entry.path, reason))
        else:
            safe[parts] = entry
    folders = {parts[:depth] for parts in safe for depth in range(len(parts))} | {()}
    for parts in [parts for parts in safe if parts in folders]:
        left_out.append((safe.pop(parts).path, "its name is also a folder's"))
    if max(len(safe), len(folders)) > MAX_ROWS:
        raise StoreError(f"the manifest has {len(safe)} files; wbfs shows at most {MAX_ROWS}")

    # By folder's depth and name: subfolders, and files, of one folder get consecutive numbers.
    ordered = sorted(folders, key=lambda parts: (len(parts), parts))
    numbers = {parts: number for number, parts in enumerate(ordered)}
    files = sorted(safe.items(), key=lambda item: (numbers[item[0][:-1]], item[0][-1]))
    db = sqlite3.connect(path)
    try:
        # Written once under a temporary name, so neither a journal nor SQLite's own syncs are due.
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        report = [[_printable(path), reason] for path, reason in left_out[:MAX_REPORTED]]
        db.execute(
            "INSERT INTO about VALUES (?, ?, ?, ?)",
            (_FORMAT, version_path, len(left_out), json.dumps(report)),
        )
        db.executemany(
            "INSERT INTO folders VALUES (?, ?, ?, ?, ?, ?, ?)", _folder_rows(ordered, files)
        )
        db.executemany(
            f"INSERT INTO files VALUES ({', '.join('?' * 11)})",
            (
                _file_row(number, numbers[parts[:-1]], parts[-1], entry)
                for number, (parts, entry) in enumerate(files)
            ),
        )
        db.executescript(_INDEXES)
        db.commit()
    finally:
        db.close()


def _unsafe(parts: tuple[str, ...]) -> str:
    """Return why a path can't be shown, or the empty text."""
    if parts == ("",):
        return "its path is empty"
    if parts[0] == "":
        return "its path is absolute"
    for part in parts:
        if not is_safe_component(part):
            return f"{_printable(part[:80])!r} can't be a name in a folder"
    return ""


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _folder_rows(
    ordered: list[tuple[str, ...]], files: list[tuple[tuple[str, ...], Entry]]
) -> Iterable[tuple[int, int, str, int, int, int, int]]:
    numbers = {parts: number for number, parts in enumerate(ordered)}
    folder_counts = Counter(numbers[parts[:-1]] for parts in ordered if parts)
    file_counts = Counter(numbers[parts[:-1]] for parts, _ in files)
    first_folder, first_file = 1, 0
    for number, parts in enumerate(ordered):
        parent = numbers[parts[:-1]] if parts else ROOT_FOLDER
        # The root is no entry of its own parent.
        name = parts[-1] if parts else ""
        yield (
            number,
            parent,
            name,
            first_folder,
            folder_counts[number],
            first_file,
            file_counts[number],
        )
        first_folder += folder_counts[number]
        first_file += file_counts[number]


def _file_row(number: int, folder: int, name: str, entry: Entry) -> tuple[object, ...]:
    digest, reference = entry.digest, entry.reference
    return (
        number,
        folder,
        name,
        entry.size,
        str(digest.algorithm) if digest else None,
        bytes.fromhex(digest.hex) if digest else None,
        entry.birth_artifact_id,
        reference.uri if reference else None,
        reference.token if reference else None,
        reference.etag if reference else None,
        reference.version_id if reference else None,
    )

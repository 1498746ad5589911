"""A manifest becomes its table: only what has a safe path that is not at odds with another's.

Blocking code, for a worker thread or a process of its own; it takes 6 seconds for a million files.
"""

from __future__ import annotations

import json
import os
import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import lru_cache
from itertools import chain
from pathlib import Path
from urllib.parse import quote

from wbfs.model.entries import ARTIFACT_SCHEME, Row, split_artifact_uri
from wbfs.model.errors import StoreError, StoreFull
from wbfs.model.names import is_safe_component
from wbfs.store.folder import store_error
from wbfs.store.manifests import FORMAT, ROOT_FOLDER, ManifestTable

MAX_ROWS = 1 << 24
"""Files, and folders, that one manifest may have: an inode number has 24 bits for them."""
MAX_REPORTED = 100
"""Left-out entries that are kept by name; the rest are counted."""
FOLDERS_REMEMBERED = 1024
"""Folders of another artifact whose numbers are known while references to it get their sizes."""

# Written once under a temporary name, so neither a journal nor SQLite's own syncs are due.
_SETTINGS = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
"""
# What few files have is apart, and what many have in common is there once: a row takes as long to
# write as it has columns. Rows come in the order of the indexes, which thus need no sorting.
_SCHEMA = """
CREATE TABLE about (format INTEGER, version TEXT, left_out INTEGER, report TEXT);
CREATE TABLE folders (
    id INTEGER PRIMARY KEY, parent INTEGER, name TEXT,
    first_folder INTEGER, folder_count INTEGER, first_file INTEGER, file_count INTEGER);
CREATE TABLE kinds (id INTEGER PRIMARY KEY, algorithm TEXT, birth_artifact_id TEXT);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, folder INTEGER, name TEXT, size INTEGER, digest BLOB, kind INTEGER);
CREATE TABLE links (
    file INTEGER PRIMARY KEY, uri TEXT, token TEXT, etag TEXT, version_id TEXT);
CREATE UNIQUE INDEX folders_by_name ON folders (parent, name);
CREATE UNIQUE INDEX files_by_name ON files (folder, name);
"""


def write_table(
    path: Path,
    version_path: str,
    paths: Sequence[str],
    row_of: Callable[[str], Row],
    unreadable: Sequence[tuple[str, str]] = (),
) -> frozenset[str]:
    """Write the table of a version to the file `path`, in place of what it has.

    `paths` are those of its rows, sorted; `unreadable` names more with the reason why they have
    none. Return the ids of the artifacts that references lead to: `fill_in_sizes` is due where
    there are any. Raises StoreError, StoreFull.
    """
    tree = _Tree(paths, unreadable)
    if max(tree.file_count, len(tree.folders)) > MAX_ROWS:
        raise StoreError(f"the manifest has {tree.file_count} files; wbfs shows at most {MAX_ROWS}")
    files = _Files(tree, row_of)
    try:
        os.truncate(path, 0)
        with closing(_open(path)) as db:
            db.executescript(_SETTINGS + _SCHEMA + "BEGIN;")
            db.execute(
                "INSERT INTO about VALUES (?, ?, ?, ?)",
                (FORMAT, version_path, len(tree.left_out), tree.report()),
            )
            db.executemany("INSERT INTO folders VALUES (?, ?, ?, ?, ?, ?, ?)", tree.folder_rows())
            db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", files.rows())
            db.executemany("INSERT INTO links VALUES (?, ?, ?, ?, ?)", files.link_rows())
            db.executemany(
                "INSERT INTO kinds VALUES (?, ?, ?)",
                ((number, *kind) for kind, number in files.kinds.items()),
            )
            db.execute("COMMIT")
    except OSError as error:
        raise store_error(f"write the manifest {path}", error) from error
    except sqlite3.Error as error:
        raise _error(path, error) from error
    return frozenset(files.targets)


def fill_in_sizes(path: Path, targets: Mapping[str, Path]) -> None:
    """Give a table's references to other artifacts their files' sizes: manifests have 0 for them.

    `targets` are the other artifacts' tables by the ids that references have; where one is missing
    the size stays as it is. Raises StoreError, StoreFull.
    """
    with ExitStack() as stack:
        finders: dict[str, _SizeFinder] = {}
        for artifact_id, target in targets.items():
            try:
                finders[artifact_id] = _SizeFinder(
                    stack.enter_context(closing(ManifestTable(target)))
                )
            except FileNotFoundError as error:
                raise StoreError(f"the cached manifest {target} is gone: try again") from error
        try:
            db = stack.enter_context(closing(_open(path)))
            db.executescript(_SETTINGS + "BEGIN;")
            rows = db.execute(
                "SELECT file, uri FROM links WHERE uri GLOB ?", (ARTIFACT_SCHEME + "*",)
            )
            db.executemany("UPDATE files SET size = ? WHERE id = ?", _sizes(rows, finders))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise _error(path, error) from error


class _SizeFinder:
    """Finds the sizes of a table's files by their paths."""

    def __init__(self, table: ManifestTable) -> None:
        self._table = table
        self._folder_at = lru_cache(FOLDERS_REMEMBERED)(self._find_folder)

    def size(self, path: str) -> tuple[int | None] | None:
        """Return a file's size, which may not be known; None where there is no such file."""
        folder, _, name = path.rpartition("/")
        number = self._folder_at(folder)
        found = None if number is None else self._table.find(number, name)
        return None if found is None or found.is_folder else (found.size,)

    def _find_folder(self, path: str) -> int | None:
        number = ROOT_FOLDER
        for part in path.split("/") if path else ():
            folder = self._table.folder_by_name(number, part)
            if folder is None:
                return None
            number = folder.id
        return number


def _sizes(
    rows: Iterator[tuple[int, str]], finders: Mapping[str, _SizeFinder]
) -> Iterator[tuple[int | None, int]]:
    for file, uri in rows:
        artifact_id, path = split_artifact_uri(uri)
        finder = finders.get(artifact_id)
        found = finder.size(path) if finder else None
        if found is not None:
            yield found[0], file


class _Tree:
    """The folders of a manifest with their files' paths, and what is left out of it.

    `folders` has the folders by path, in the order of their numbers.
    """

    def __init__(self, paths: Sequence[str], unreadable: Sequence[tuple[str, str]]) -> None:
        self.left_out = list(unreadable)
        by_folder: dict[str, list[str]] = {"": []}
        reason_of = lru_cache(FOLDERS_REMEMBERED)(_unsafe_folder)
        for path in paths:
            folder, slash, name = path.rpartition("/")
            # A path that begins with a slash has an empty folder in front of it.
            if reason := (reason_of(folder) if slash else "") or _unsafe(name):
                self.left_out.append((path, reason if path else "its path is empty"))
            else:
                by_folder.setdefault(folder, []).append(path)
        for folder in list(by_folder):
            while folder:
                folder = folder.rpartition("/")[0]
                if folder in by_folder:
                    break
                by_folder[folder] = []
        for folder in by_folder:
            files = by_folder[folder.rpartition("/")[0]]
            at = bisect_left(files, folder)
            if folder and files[at : at + 1] == [folder]:
                self.left_out.append((files.pop(at), "its name is also a folder's"))
        # By folder's depth and name: subfolders, and files, of one folder get consecutive numbers.
        ordered = sorted(by_folder, key=_depth_and_parts)
        self.folders = {folder: by_folder[folder] for folder in ordered}
        self.file_count = sum(map(len, by_folder.values()))

    def report(self) -> str:
        """Return some of what is left out, with the reasons, as JSON."""
        some = self.left_out[:MAX_REPORTED]
        return json.dumps([[_printable(path), reason] for path, reason in some])

    def folder_rows(self) -> Iterator[tuple[int, int, str, int, int, int, int]]:
        """Yield the rows of the table of folders."""
        numbers = {folder: number for number, folder in enumerate(self.folders)}
        parents = [numbers[folder.rpartition("/")[0]] for folder in self.folders]
        # The root is no entry of its own parent.
        subfolders = Counter(parents[1:])
        first_folder, first_file = 1, 0
        for number, (folder, files) in enumerate(self.folders.items()):
            yield (
                number,
                parents[number],
                folder.rpartition("/")[2],
                first_folder,
                subfolders[number],
                first_file,
                len(files),
            )
            first_folder += subfolders[number]
            first_file += len(files)


class _Files:
    """The rows of a manifest's files; what they have beside goes to other tables after them."""

    def __init__(self, tree: _Tree, row_of: Callable[[str], Row]) -> None:
        self._tree = tree
        self._row_of = row_of
        self._has_links = False
        self.kinds: dict[tuple[str, str], int] = {}
        self.targets: set[str] = set()

    def rows(self) -> Iterator[tuple[int, int, str, int | None, bytes | None, int]]:
        """Yield the rows of the table of files."""
        kinds, row_of = self.kinds, self._row_of
        file = 0
        for number, (folder, paths) in enumerate(self._tree.folders.items()):
            start = len(folder) + 1 if folder else 0
            for path in paths:
                size, algorithm, digest, birth, reference = row_of(path)
                kind = kinds.setdefault((algorithm, birth), len(kinds))
                yield file, number, path[start:], size, digest, kind
                file += 1
                if reference is not None:
                    self._has_links = True

    def link_rows(self) -> Iterator[tuple[int, str, str, str, str]]:
        """Yield the rows of the table of links, after those of files."""
        # Decoded once more rather than kept: there may be a million.
        paths = chain.from_iterable(self._tree.folders.values()) if self._has_links else ()
        for file, path in enumerate(paths):
            reference = self._row_of(path).reference
            if reference is None:
                continue
            if reference.uri.startswith(ARTIFACT_SCHEME):
                self.targets.add(split_artifact_uri(reference.uri)[0])
            yield file, reference.uri, reference.token, reference.etag, reference.version_id


def _unsafe_folder(path: str) -> str:
    """Return why a folder can't be shown, or the empty text."""
    parts = path.split("/")
    if parts[0] == "":
        return "its path is absolute"
    return next(filter(None, map(_unsafe, parts)), "")


def _unsafe(name: str) -> str:
    """Return why something of that name can't be shown, or the empty text."""
    if is_safe_component(name):
        return ""
    return f"{_printable(name[:80])!r} can't be a name in a folder"


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _depth_and_parts(folder: str) -> tuple[int, list[str]]:
    parts = folder.split("/") if folder else []
    return len(parts), parts


def _open(path: Path) -> sqlite3.Connection:
    # Not made anew where it was removed, since nobody wants it any more.
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None)


def _error(path: Path, error: sqlite3.Error) -> StoreError:
    if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
        return StoreFull(
            f"can't write the manifest {path}: the disk is full; free space or use --cache-dir"
        )
    return StoreError(f"can't write the manifest {path}: {error}")

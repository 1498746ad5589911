"""A manifest becomes its table: only what has a safe path that is not at odds with another's.

Blocking code, for a worker thread or a process of its own; it takes 6 seconds for a million files.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

import xxhash

from wbfs.model.entries import ARTIFACT_SCHEME, LeftOut, Row, split_artifact_uri
from wbfs.model.errors import StoreError, TooLarge
from wbfs.model.names import is_safe_component
from wbfs.store.folder import store_error
from wbfs.store.known.failures import sqlite_failure
from wbfs.store.known.manifest_table import (
    FORMAT,
    UNSIZED,
    ManifestTable,
    size_in_row,
    write_checksum,
)

MAX_ROWS = 1 << 24
"""Files, and folders, that one manifest may have: an inode number has 24 bits for them."""
MAX_PATH_BYTES = 4095
"""Bytes that a path in an artifact may have: programs can name no longer one."""
MAX_DEPTH = 128
"""Folders that a path may lead through: each costs as much as a file."""
FOLDERS_REMEMBERED = 1024
"""Folders of another artifact whose numbers are known while references to it get their sizes."""

# The hexadecimal ids in wandb-artifact://<id>/<path>.
_FIND_TARGETS = """
INSERT INTO pending SELECT DISTINCT substr(rest, 1, instr(rest, '/') - 1)
    FROM (SELECT substr(uri, length(:scheme) + 1) AS rest FROM links WHERE uri GLOB :scheme || '*')
    WHERE instr(rest, '/') > 1
"""
# Written once under a temporary name, so neither a journal nor SQLite's own syncs are due.
_SETTINGS = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
"""
# What few files have is apart, and what many have in common is there once: a row takes as long to
# write as it has columns. Rows come in the order of the indexes, which thus need no sorting.
_SCHEMA = """
CREATE TABLE about (
    format INTEGER, version TEXT, artifact TEXT, fingerprint BLOB, left_out INTEGER, report TEXT);
CREATE TABLE pending (artifact_id TEXT PRIMARY KEY);
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
    artifact: str,
    paths: Sequence[str],
    row_of: Callable[[str], Row],
    left_out: LeftOut,
) -> None:
    """Write the table of a version to the file `path`, in place of what it has.

    `artifact` is what `Manifests.name` makes of the version's id. `paths` are those of its rows,
    sorted; what can't be shown of them is added to `left_out`. Sizes of other artifacts' files are
    pending then: see `fill_in_sizes`. Raises TooLarge, StoreError, StoreFull.
    """
    tree = _Tree(version_path, paths, left_out)
    files = _Files(tree, row_of)
    try:
        os.truncate(path, 0)
        with closing(_open(path)) as db:
            db.executescript(_SETTINGS + _SCHEMA + "BEGIN;")
            db.executemany("INSERT INTO folders VALUES (?, ?, ?, ?, ?, ?, ?)", tree.folder_rows())
            db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", files.rows())
            db.executemany("INSERT INTO links VALUES (?, ?, ?, ?, ?)", files.link_rows())
            db.executemany(
                "INSERT INTO kinds VALUES (?, ?, ?)",
                ((number, *kind) for kind, number in files.kinds.items()),
            )
            db.execute(_FIND_TARGETS, {"scheme": ARTIFACT_SCHEME})
            report = json.dumps(left_out.report)
            db.execute(
                "INSERT INTO about VALUES (?, ?, ?, ?, ?, ?)",
                (FORMAT, version_path, artifact, files.fingerprint, left_out.count, report),
            )
            db.execute("COMMIT")
        write_checksum(path)
    except OSError as error:
        raise store_error(f"write the manifest {path}", error) from error
    except sqlite3.Error as error:
        raise sqlite_failure(f"write the manifest {path}", error) from error


def fill_in_sizes(path: Path, targets: Mapping[str, Path]) -> None:
    """Give a table's references to other artifacts their files' sizes: manifests have 0 for them.

    `targets` are the other artifacts' tables by the ids that references have. What is not found out
    now, since a target is missing or has sizes pending itself, stays pending. Raises StoreError,
    StoreFull.
    """
    known: set[str] = set()
    try:
        with closing(_open(path)) as db:
            db.executescript(_SETTINGS + "BEGIN;")
            # In the order of their targets, so that one is open at a time, however many there are.
            pattern = ARTIFACT_SCHEME + "*"
            rows = db.execute(
                "SELECT file, uri FROM links WHERE uri GLOB ? ORDER BY uri", (pattern,)
            )
            sizes = _sizes(rows, targets, known)
            db.executemany("UPDATE files SET size = ? WHERE id = ?", sizes)
            db.executemany("DELETE FROM pending WHERE artifact_id = ?", ((one,) for one in known))
            db.execute("COMMIT")
        write_checksum(path)
    except OSError as error:
        raise store_error(f"write the manifest {path}", error) from error
    except sqlite3.Error as error:
        raise sqlite_failure(f"write the manifest {path}", error) from error


class _SizeFinder:
    """Finds the sizes of a table's files by their paths."""

    def __init__(self, table: ManifestTable) -> None:
        self._table = table
        self._folder_at = lru_cache(FOLDERS_REMEMBERED)(self._find_folder)

    def size(self, path: str) -> int:
        """Return a file's size as its table has it; UNSIZED where there is no such file."""
        folder, _, name = path.rpartition("/")
        number = self._folder_at(folder)
        found = None if number is None else self._table.find(number, name)
        return UNSIZED if found is None or found.is_folder else found.size

    def _find_folder(self, path: str) -> int | None:
        folder = self._table.folder_at(path)
        return None if folder is None else folder.id


def _sizes(
    rows: Iterator[tuple[int, str]], targets: Mapping[str, Path], known: set[str]
) -> Iterator[tuple[int, int]]:
    """Yield sizes and whose they are; add to `known` the targets that have no more to say."""
    links = ((*split_artifact_uri(uri), file) for file, uri in rows)
    for artifact_id, group in groupby(links, key=itemgetter(0)):
        target = targets.get(artifact_id)
        if target is None:
            continue
        try:
            table = ManifestTable(target)
        except (OSError, StoreError):
            # Evicted meanwhile: it is fetched again the next time.
            continue
        with closing(table):
            finder = _SizeFinder(table)
            is_known = True
            for _, path, file in group:
                size = finder.size(path)
                is_known = is_known and (size != UNSIZED or table.is_complete)
                yield size, file
        if is_known:
            known.add(artifact_id)


class _Tree:
    """The folders of a manifest with their files' paths, without what can't be shown.

    `folders` has the folders by path, in the order of their numbers.
    """

    def __init__(self, version_path: str, paths: Sequence[str], left_out: LeftOut) -> None:
        """Sort the paths; add those that can't be shown to `left_out`. Raises TooLarge."""
        by_folder: dict[str, list[str]] = {"": []}
        reason_of = lru_cache(FOLDERS_REMEMBERED)(_unsafe_folder)
        for path in paths:
            folder, slash, name = path.rpartition("/")
            # A path that begins with a slash has an empty folder in front of it.
            reason = _too_long(path) or (reason_of(folder) if slash else "") or _unsafe(name)
            if reason:
                left_out.add(path, reason if path else "its path is empty")
            else:
                by_folder.setdefault(folder, []).append(path)
        for folder in list(by_folder):
            while folder:
                folder = folder.rpartition("/")[0]
                if folder in by_folder:
                    break
                by_folder[folder] = []
            if len(by_folder) > MAX_ROWS:
                raise _too_large(version_path, f"more than {MAX_ROWS} folders")
        for files in by_folder.values():
            both = [path for path in files if path in by_folder]
            for path in both:
                left_out.add(path, "its name is also a folder's")
            if both:
                files[:] = [path for path in files if path not in by_folder]
        # By folder's depth and name: subfolders, and files, of one folder get consecutive numbers.
        self.folders = {folder: by_folder[folder] for folder in sorted(by_folder, key=_order)}
        file_count = sum(map(len, by_folder.values()))
        if file_count > MAX_ROWS:
            raise _too_large(version_path, f"{file_count} files")

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
        self._hasher = xxhash.xxh128()
        self.kinds: dict[tuple[str, str], int] = {}

    @property
    def fingerprint(self) -> bytes:
        """What the rows hash to: the numbers of two tables mean the same where these are equal."""
        return self._hasher.digest()

    def rows(self) -> Iterator[tuple[int, int, str, int, bytes | None, int]]:
        """Yield the rows of the table of files."""
        kinds, row_of, hashed = self.kinds, self._row_of, self._hasher.update
        file = 0
        for number, (folder, paths) in enumerate(self._tree.folders.items()):
            start = len(folder) + 1 if folder else 0
            for path in paths:
                said, algorithm, digest, birth, reference, is_hint = row_of(path)
                size = size_in_row(said, is_hint=is_hint)
                kind = kinds.setdefault((algorithm, birth), len(kinds))
                yield file, number, path[start:], size, digest, kind
                file += 1
                hashed(f"{path}\0{size}\0".encode())
                if digest is not None:
                    hashed(digest)
                if reference is not None:
                    self._has_links = True
                    parts = (reference.uri, reference.token, reference.version_id)
                    hashed("\0".join(parts).encode())

    def link_rows(self) -> Iterator[tuple[int, str, str, str, str]]:
        """Yield the rows of the table of links, after those of files."""
        # Decoded once more rather than kept: there may be a million.
        paths = chain.from_iterable(self._tree.folders.values()) if self._has_links else ()
        for file, path in enumerate(paths):
            reference = self._row_of(path).reference
            if reference is None:
                continue
            yield file, reference.uri, reference.token, reference.etag, reference.version_id


def _unsafe_folder(path: str) -> str:
    """Return why a folder can't be shown, or the empty text."""
    parts = path.split("/")
    if parts[0] == "":
        return "its path is absolute"
    return next(filter(None, map(_unsafe, parts)), "")


def _too_long(path: str) -> str:
    # No character has less than a byte.
    if len(path) > MAX_PATH_BYTES or len(path.encode("utf-8", "replace")) > MAX_PATH_BYTES:
        return f"its path is longer than {MAX_PATH_BYTES} bytes"
    if path.count("/") > MAX_DEPTH:
        return f"its path leads through more than {MAX_DEPTH} folders"
    return ""


def _unsafe(name: str) -> str:
    """Return why something of that name can't be shown, or the empty text."""
    if is_safe_component(name):
        return ""
    return f"{name[:80]!r} can't be a name in a folder"


def _order(folder: str) -> tuple[int, str]:
    """What sorts folders by depth, and then as their parts do."""
    # NUL is in no name and before every other character.
    return (folder.count("/") + 1 if folder else 0), folder.replace("/", "\0")


def _too_large(version_path: str, what: str) -> TooLarge:
    return TooLarge(
        f"the manifest of {version_path} has {what}; wbfs shows at most {MAX_ROWS} of a version"
    )


def _open(path: Path) -> sqlite3.Connection:
    # Not made anew where it was removed, since nobody wants it any more.
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=rw", uri=True, isolation_level=None
    )

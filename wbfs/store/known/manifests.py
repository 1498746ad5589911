"""Manifests on disk: one immutable SQLite table a version, so that entries cost no memory.

    manifests/<server>/<artifact id>.sqlite

Folders are numbered so that the subfolders of one folder, and its files, have consecutive numbers
in the order of their names. A listing is then a scan of a range, a position in it is a number, and
the numbers are the same in every mount, since only the manifest decides them. Blocking code; the
look-ups take microseconds and may be made from any one thread at a time.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, LeftOut, Reference
from wbfs.model.errors import StoreError
from wbfs.store.bounds.room import Room
from wbfs.store.content.marks import BLOCK_BYTES
from wbfs.store.content.sealed import mark_used
from wbfs.store.folder import open_file, store_error
from wbfs.store.known.places import Cached, Elsewhere, Place, Scratch, remove_leftovers

log = logging.getLogger(__name__)

ROOT_FOLDER = 0
FOLDER_PATHS = 128
"""Folders whose paths an open table remembers: of one folder many files are opened."""

KINDS = 128
"""Kinds of files that an open table remembers: most manifests have one or two."""
CACHE_KIB = 256
"""Memory that an open table keeps pages of its file in; the kernel has them too."""

SPILLED_S = 10.0
"""Seconds in which new tables are not written to a cache that had no room for one."""

FORMAT = 5
"""What `about` says of a table as `wbfs.store.known.manifest_writer` writes it."""
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
        """Open the table at `path`. Raises StoreError, FileNotFoundError."""
        self.path = path
        # Held open and locked, so that it isn't evicted meanwhile.
        self._pin = open_file(path)
        # The file never changes, so SQLite needs no locks. It is opened in a worker thread and then
        # read by one thread at a time.
        self._db = sqlite3.connect(
            f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1",
            uri=True,
            check_same_thread=False,
        )
        try:
            self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            if not mark_used(self._pin):
                raise FileNotFoundError(f"{path} is being removed")
            about = self._db.execute("SELECT * FROM about").fetchone()
            if about is None or about[0] != FORMAT:
                raise FileNotFoundError(f"{path} is of another version of wbfs")
        except sqlite3.Error as error:
            self.close()
            raise StoreError(f"can't read the cached manifest {path}: {error}") from error
        except FileNotFoundError:
            self.close()
            raise
        self._kind = lru_cache(KINDS)(self._find_kind)
        self._path_to = lru_cache(FOLDER_PATHS)(self._find_path_to)
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
        rows = self._db.execute(
            "SELECT artifact_id FROM pending ORDER BY random() LIMIT ?", (limit,)
        )
        return [artifact_id for (artifact_id,) in rows]

    @property
    def is_complete(self) -> bool:
        """Whether no sizes are pending."""
        return self._db.execute("SELECT 1 FROM pending LIMIT 1").fetchone() is None

    def entries(self) -> Iterator[Entry]:
        """Yield every file's entry, without the folders of its path."""
        rows = self._db.execute(f"{_FILES} ORDER BY id")
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
        rows = self._db.execute(f"{_FILES} WHERE id >= ? AND id < ? ORDER BY id", (first, stop))
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
        rows = self._db.execute(_BELOW, (folder.id if folder else None,))
        return (self._file_of(row, self._path_to(row[1])).entry for row in rows)

    def find(self, folder: int, name: str) -> Found | None:
        """Return what `name` is in the folder of that number."""
        row = self._db.execute(
            "SELECT id, size, 0 FROM files WHERE folder = ? AND name = ?"
            " UNION ALL SELECT id, 0, 1 FROM folders WHERE parent = ? AND name = ?",
            (folder, name, folder, name),
        ).fetchone()
        return None if row is None else Found(*row)

    def folder_names(self, folder: Folder, skip: int = 0) -> Iterator[tuple[str]]:
        """Yield the names of the subfolders in their order, without the first `skip`."""
        first, stop = folder.first_folder + skip, folder.first_folder + folder.folder_count
        return self._db.execute(
            "SELECT name FROM folders WHERE id >= ? AND id < ? ORDER BY id", (first, stop)
        )

    def unsized(self, folder: int, behind: int, count: int) -> list[File]:
        """Return up to `count` files of a folder, behind one, whose sizes are not known."""
        rows = self._db.execute(
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
        return self._db.execute(
            "SELECT name, size FROM files WHERE id >= ? AND id < ? ORDER BY id", (first, stop)
        )

    def has_name(self, folder: int, prefix: str) -> bool:
        """Whether the name of anything in the folder starts with `prefix`."""
        names = self._db.execute(
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
        rows = self._db.execute(
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
        row = self._db.execute(f"SELECT * FROM folders WHERE {where}", values).fetchone()
        return None if row is None else _folder_of(row)

    def _file(self, where: str, values: tuple[int | str, ...]) -> File | None:
        row = self._db.execute(f"{_FILES} WHERE {where}", values).fetchone()
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

    def _find_kind(self, number: int) -> tuple[Algorithm, str]:
        row = self._db.execute(
            "SELECT algorithm, birth_artifact_id FROM kinds WHERE id = ?", (number,)
        ).fetchone()
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


def remove_abandoned_tables(cache_dir: Path) -> None:
    """Remove what was begun of tables, and is left of it by daemons that were killed."""
    for folder in (cache_dir / "manifests").glob("*"):
        remove_leftovers(folder)


class Manifests:
    """The manifest tables of one server in a cache directory."""

    def __init__(self, cache_dir: Path, server: str, room: Room) -> None:
        """Take the folder, which is made when it is needed, in a cache that has that `room`.

        `server` is the W&B host, since ids are unique per server.
        """
        self._server = server
        self._folder = _server_folder(cache_dir, server)
        self._room = room
        self._elsewhere = Elsewhere()
        self._elsewhere_until = -math.inf

    def name(self, artifact_id: str) -> str:
        """Return what names a version among those of all servers."""
        return f"{self._server}/{artifact_id}"

    def open(self, artifact_id: str) -> ManifestTable | None:
        """Return the table of a version, or None where there is none that can be used."""
        for folder in filter(None, (self._folder, self._elsewhere.folder)):
            try:
                return ManifestTable(folder / _file_name(artifact_id))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._room.note_failure("open a cached manifest", error)
            except StoreError as error:
                log.warning("%s; it is fetched again", error)
        return None

    def spill(self) -> None:
        """Have tables written elsewhere for a while: the cache has no room for one."""
        self._elsewhere_until = time.monotonic() + SPILLED_S

    def _place(self) -> Place:
        """Return where a table is written now."""
        if self._room.is_full or time.monotonic() < self._elsewhere_until:
            return self._elsewhere
        return Cached(self._folder, self._room)

    @contextmanager
    def drafting(self, artifact_id: str) -> Iterator[Path]:
        """Give the path of an empty file, which becomes a version's table at the context's end.

        Where that is an exception, nothing is left of it. Where it is StoreFull, `spill` and try
        again. Raises StoreError, StoreFull.
        """
        name = _file_name(artifact_id)
        try:
            place = self._place()
            fd, draft = place.create(name)
        except StoreError:
            self.spill()
            place = self._elsewhere
            fd, draft = place.create(name)
        path = draft.with_name(name)
        try:
            # Locked, so that neither eviction nor another daemon takes it for a leftover.
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield draft
            try:
                os.fsync(fd)
                place.take(os.fstat(fd).st_blocks * BLOCK_BYTES)
                draft.rename(path)
            except OSError as error:
                raise store_error(f"write the manifest {path}", error) from error
        finally:
            draft.unlink(missing_ok=True)
            os.close(fd)

    def scratch(self) -> IO[bytes]:
        """Return a file without a name, for what becomes a table. Raises StoreError, StoreFull.

        So do its writes.
        """
        place = self._place()
        fd, path = place.create("scratch")
        path.unlink(missing_ok=True)
        return Scratch(fd, place)


def _server_folder(cache_dir: Path, server: str) -> Path:
    return cache_dir / "manifests" / quote(server, safe="")


def _file_name(artifact_id: str) -> str:
    return f"{quote(artifact_id, safe='')}.sqlite"


def table_path(cache_dir: Path, server: str, artifact_id: str) -> Path:
    """Where the table of a version of a server is in a cache directory, or would be."""
    return _server_folder(cache_dir, server) / _file_name(artifact_id)

"""Sizes that no manifest tells, as origins told them: kept over mounts, and for those offline.

    <cache>/sizes.sqlite

Each is kept for what identifies the content, or, where nothing does, for the version that refers to
it. Blocking code, safe to call from any thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from wbfs.store.known.shared_database import SharedDatabase

_FORMAT = 1
_SCHEMA = ("CREATE TABLE sizes (key TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID",)


class KnownSizes:
    """The sizes that a cache directory knows, by the keys of blobs."""

    def __init__(self, cache_dir: Path) -> None:
        """Take the file's place."""
        path = cache_dir / "sizes.sqlite"
        self._database = SharedDatabase(path, format=_FORMAT, schema=_SCHEMA)

    def find(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the sizes, in bytes, of those that are known. Raises StoreError."""

        def find(db: sqlite3.Connection) -> dict[str, int]:
            one = "SELECT size FROM sizes WHERE key = ?"
            rows = ((key, db.execute(one, (key,)).fetchone()) for key in keys)
            return {key: row[0] for key, row in rows if row is not None}

        return self._database.read(find)

    def write(self, sizes: Mapping[str, int | None]) -> None:
        """Keep sizes; None is one that is no longer true. Raises StoreError."""

        def write(db: sqlite3.Connection) -> None:
            gone = [(key,) for key, size in sizes.items() if size is None]
            kept = [(key, size) for key, size in sizes.items() if size is not None]
            db.executemany("DELETE FROM sizes WHERE key = ?", gone)
            db.executemany("INSERT OR REPLACE INTO sizes VALUES (?, ?)", kept)

        self._database.write(write)

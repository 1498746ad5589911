"""Which runs have which versions as inputs, kept until the server knows, and a while longer.

    <cache>/uses.sqlite

A row is on disk before the server is told, so that an outage and a `kill -9` lose none; and it
stays when the server knows, so that of all mounts of a cache only one tells it. Rows of different
servers and users never mix. Blocking code, safe to call from any thread.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from wbfs.model.entries import Viewer
from wbfs.model.errors import NameInvalid
from wbfs.model.runs import Run, Use, parse_run
from wbfs.store.known.catalog import owner_of
from wbfs.store.known.shared_database import Damaged, SharedDatabase

KEPT_S = 7 * 86400.0
"""Seconds that the server is told again in vain, and that it is remembered that it knows."""

_FORMAT = 1
_SCHEMA = (
    # `run` is a run's path, or that of its transaction log, which begins with a slash.
    "CREATE TABLE uses (owner BLOB, run TEXT, artifact_id TEXT, version TEXT, used_at REAL,"
    " claimed_until REAL DEFAULT 0, is_known INTEGER DEFAULT 0,"
    " PRIMARY KEY (owner, run, artifact_id)) WITHOUT ROWID",
)


class Uses:
    """The uses of one user at one server, in one cache directory. All raise StoreError."""

    def __init__(self, cache_dir: Path, *, server: str, viewer: Viewer) -> None:
        self._database = SharedDatabase(cache_dir / "uses.sqlite", format=_FORMAT, schema=_SCHEMA)
        self._owner = owner_of(server, viewer)

    @property
    def is_there(self) -> bool:
        """Whether any were ever noted with this cache."""
        return self._database.path.exists()

    def add(self, uses: Sequence[Use]) -> None:
        """Note uses, but for those that were noted before."""
        rows = [
            (self._owner, _text_of(use.run), use.artifact_id, use.version, time.time())
            for use in uses
        ]
        self._database.write(
            lambda db: db.executemany(
                "INSERT INTO uses (owner, run, artifact_id, version, used_at)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                rows,
            )
        )

    def pending(self) -> list[Use]:
        """Return those that the server doesn't know yet, the oldest first."""
        return self._database.read(lambda db: self._select(db, "NOT is_known ORDER BY used_at", ()))

    def forget_old(self) -> list[Use]:
        """Remove what is older than `KEPT_S`; return what of that the server never knew."""

        def remove(db: sqlite3.Connection) -> list[Use]:
            oldest = (time.time() - KEPT_S,)
            given_up = self._select(db, "NOT is_known AND used_at < ?", oldest)
            db.execute("DELETE FROM uses WHERE used_at < ?", oldest)
            return given_up

        return self._database.write(remove)

    def claim(self, use: Use, seconds: float) -> bool:
        """Whether nobody else tells the server for that many seconds; it is ours to tell then."""
        now = time.time()

        def take(db: sqlite3.Connection) -> bool:
            taken = db.execute(
                "UPDATE uses SET claimed_until = ? WHERE owner = ? AND run = ? AND artifact_id = ?"
                " AND NOT is_known AND claimed_until NOT BETWEEN ? AND ?",
                # A clock that was set back must not make it wait for long.
                (now + seconds, *self._key(use), now, now + seconds),
            )
            return taken.rowcount == 1

        return self._database.write(take)

    def note_known(self, use: Use) -> None:
        """Note that the server knows."""
        self._execute("UPDATE uses SET is_known = 1", use)

    def release(self, use: Use) -> None:
        """Note that the server was not told."""
        self._execute("UPDATE uses SET claimed_until = 0", use)

    def remove(self, use: Use) -> None:
        """Forget a use."""
        self._execute("DELETE FROM uses", use)

    def found(self, log: str, run: Run) -> None:
        """Note whose transaction log it is."""

        def rename(db: sqlite3.Connection) -> None:
            where = (self._owner, log)
            db.execute(
                "UPDATE OR IGNORE uses SET run = ? WHERE owner = ? AND run = ?", (run.path, *where)
            )
            # The same by another of its logs.
            db.execute("DELETE FROM uses WHERE owner = ? AND run = ?", where)

        self._database.write(rename)

    def _execute(self, statement: str, use: Use) -> None:
        self._database.write(
            lambda db: db.execute(
                f"{statement} WHERE owner = ? AND run = ? AND artifact_id = ?", self._key(use)
            )
        )

    def _select(
        self, db: sqlite3.Connection, condition: str, parameters: tuple[float, ...]
    ) -> list[Use]:
        rows = db.execute(
            f"SELECT run, artifact_id, version FROM uses WHERE owner = ? AND {condition}",
            (self._owner, *parameters),
        )
        return [
            Use(run=_run_of(run), artifact_id=artifact_id, version=version)
            for run, artifact_id, version in rows
        ]

    def _key(self, use: Use) -> tuple[bytes, str, str]:
        return self._owner, _text_of(use.run), use.artifact_id


def _text_of(run: Run | str) -> str:
    return run.path if isinstance(run, Run) else run


def _run_of(text: str) -> Run | str:
    try:
        return text if text.startswith("/") else parse_run(text)
    except NameInvalid as error:
        raise Damaged(f"it holds what wbfs never wrote: {error}") from error

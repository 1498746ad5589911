"""The stand-in server's database: one SQLite file, its schema and its transactions.

Owns the connection and nothing of what the tables mean; the modules beside it
(`accounts`, `projects`, `runs`, `memberships`, `artifacts`, `uploads`) hold the queries.
One connection serves every thread, one GraphQL operation at a time
(`Database.session`): a test server needs to be right before it needs to be parallel.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

Row = TypeVar("Row")
Value = str | int | float | bytes | None
Parameters = Sequence[Value] | Mapping[str, Value]

SCHEMA = """
CREATE TABLE IF NOT EXISTS organization (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS user (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, email TEXT NOT NULL,
    admin INTEGER NOT NULL, created_at TEXT NOT NULL, default_entity_id INTEGER);
CREATE TABLE IF NOT EXISTS api_key (
    id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES user(id),
    sha256 TEXT NOT NULL UNIQUE, prefix TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS entity (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('USER', 'TEAM', 'ORGANIZATION')),
    user_id INTEGER REFERENCES user(id), organization_id INTEGER REFERENCES organization(id),
    created_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS member (
    entity_id INTEGER NOT NULL REFERENCES entity(id),
    user_id INTEGER NOT NULL REFERENCES user(id),
    role TEXT NOT NULL CHECK (role IN ('admin', 'member', 'view-only')),
    PRIMARY KEY (entity_id, user_id)) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS project (
    id INTEGER PRIMARY KEY AUTOINCREMENT, entity_id INTEGER NOT NULL REFERENCES entity(id),
    name TEXT NOT NULL, description TEXT, access TEXT NOT NULL,
    any_artifact_type INTEGER NOT NULL DEFAULT 1,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL, UNIQUE (entity_id, name));
CREATE TABLE IF NOT EXISTS project_member (
    project_id INTEGER NOT NULL REFERENCES project(id) ON DELETE CASCADE,
    entity_id INTEGER NOT NULL REFERENCES entity(id), role TEXT NOT NULL,
    PRIMARY KEY (project_id, entity_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY AUTOINCREMENT, project_id INTEGER NOT NULL REFERENCES project(id),
    name TEXT NOT NULL, user_id INTEGER REFERENCES user(id), display_name TEXT,
    description TEXT, notes TEXT, config TEXT NOT NULL DEFAULT '{}',
    summary_metrics TEXT NOT NULL DEFAULT '{}', state TEXT NOT NULL, job_type TEXT,
    run_group TEXT, commit_hash TEXT, host TEXT, tags TEXT NOT NULL DEFAULT '[]',
    created_at TEXT NOT NULL, heartbeat_at TEXT NOT NULL, UNIQUE (project_id, name));
CREATE TABLE IF NOT EXISTS run_line (
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE, stream TEXT NOT NULL,
    line INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (run_id, stream, line)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run_file (
    id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    name TEXT NOT NULL, object_key TEXT NOT NULL, created_at TEXT NOT NULL,
    UNIQUE (run_id, name));

CREATE TABLE IF NOT EXISTS artifact_type (
    id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL REFERENCES project(id) ON DELETE CASCADE,
    name TEXT NOT NULL, description TEXT, created_at TEXT NOT NULL, UNIQUE (project_id, name));
CREATE TABLE IF NOT EXISTS collection (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL REFERENCES project(id) ON DELETE CASCADE,
    type_id INTEGER NOT NULL REFERENCES artifact_type(id),
    kind TEXT NOT NULL CHECK (kind IN ('SEQUENCE', 'PORTFOLIO')),
    name TEXT NOT NULL, description TEXT, digest_algorithm TEXT,
    next_version_index INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL, UNIQUE (project_id, name));
CREATE TABLE IF NOT EXISTS artifact (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    collection_id INTEGER NOT NULL REFERENCES collection(id) ON DELETE CASCADE,
    run_id INTEGER REFERENCES run(id) ON DELETE SET NULL,
    user_id INTEGER REFERENCES user(id),
    client_id TEXT UNIQUE, distributed_id TEXT, state TEXT NOT NULL,
    digest TEXT NOT NULL, digest_algorithm TEXT NOT NULL, version_index INTEGER,
    description TEXT, metadata TEXT, ttl_duration_seconds INTEGER NOT NULL DEFAULT -1,
    history_step INTEGER, commit_hash TEXT, requested_aliases TEXT NOT NULL DEFAULT '[]',
    manifest_key TEXT, size INTEGER NOT NULL DEFAULT 0, file_count INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS artifact_digest ON artifact (collection_id, digest);
CREATE TABLE IF NOT EXISTS membership (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    collection_id INTEGER NOT NULL REFERENCES collection(id) ON DELETE CASCADE,
    artifact_id INTEGER NOT NULL REFERENCES artifact(id) ON DELETE CASCADE,
    version_index INTEGER NOT NULL, created_at TEXT NOT NULL,
    UNIQUE (collection_id, artifact_id), UNIQUE (collection_id, version_index));
CREATE INDEX IF NOT EXISTS membership_artifact ON membership (artifact_id);
CREATE TABLE IF NOT EXISTS alias (
    id INTEGER PRIMARY KEY, collection_id INTEGER NOT NULL,
    membership_id INTEGER NOT NULL REFERENCES membership(id) ON DELETE CASCADE,
    alias TEXT NOT NULL, UNIQUE (collection_id, alias));
CREATE INDEX IF NOT EXISTS alias_membership ON alias (membership_id);
CREATE TABLE IF NOT EXISTS tag (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS artifact_tag (
    artifact_id INTEGER NOT NULL REFERENCES artifact(id) ON DELETE CASCADE,
    tag_id INTEGER NOT NULL REFERENCES tag(id), PRIMARY KEY (artifact_id, tag_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS collection_tag (
    collection_id INTEGER NOT NULL REFERENCES collection(id) ON DELETE CASCADE,
    tag_id INTEGER NOT NULL REFERENCES tag(id), PRIMARY KEY (collection_id, tag_id)) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS manifest (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    artifact_id INTEGER NOT NULL REFERENCES artifact(id) ON DELETE CASCADE,
    base_artifact_id INTEGER, type TEXT NOT NULL, digest TEXT NOT NULL, object_key TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entry (
    artifact_id INTEGER NOT NULL REFERENCES artifact(id) ON DELETE CASCADE,
    path TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, ref TEXT,
    birth_artifact_id INTEGER, object_key TEXT,
    PRIMARY KEY (artifact_id, path)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_digest ON entry (digest);
CREATE INDEX IF NOT EXISTS entry_object ON entry (object_key);
CREATE TABLE IF NOT EXISTS object (
    object_key TEXT PRIMARY KEY, project_id INTEGER NOT NULL, digest TEXT NOT NULL,
    birth_artifact_id INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_digest ON object (project_id, digest);
CREATE TABLE IF NOT EXISTS run_artifact (
    run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    artifact_id INTEGER NOT NULL REFERENCES artifact(id) ON DELETE CASCADE,
    direction TEXT NOT NULL CHECK (direction IN ('INPUT', 'OUTPUT')),
    PRIMARY KEY (run_id, artifact_id, direction)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS run_artifact_artifact ON run_artifact (artifact_id);
"""

ADDED_COLUMNS = {
    ("user", "default_entity_id"): "INTEGER",
    ("api_key", "prefix"): "TEXT NOT NULL DEFAULT ''",
}
"""What the first of these databases lack, by table and column."""


def now() -> str:
    """The time as every timestamp of the API writes it: UTC, whole seconds, `Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Database:
    """The SQLite database at `path`, created with its folder and schema if missing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.create_function("REGEXP", 2, _regexp, deterministic=True)
        self._connection.executescript(SCHEMA)
        for (table, column), declaration in ADDED_COLUMNS.items():
            found = self.column("SELECT name FROM pragma_table_info(?)", (table,))
            if column not in found:
                self.write(f"ALTER TABLE {table} ADD COLUMN {column} {declaration}")

    def close(self) -> None:
        """Close the file; what was committed stays."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep other threads out: what is read inside is one state of the database."""
        with self._lock:
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is written inside, or none of it if an exception passes; nests."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def write(self, sql: str, parameters: Parameters = ()) -> int:
        """Execute one statement; return the row id that it inserted, if it did."""
        with self._lock:
            return self._connection.execute(sql, parameters).lastrowid or 0

    def write_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        """Execute one statement for each of `rows`."""
        with self._lock:
            self._connection.executemany(sql, rows)

    def all(self, row: type[Row], sql: str, parameters: Parameters = ()) -> list[Row]:
        """Read rows into the dataclass `row`, whose fields are the selected columns."""
        with self._lock:
            cursor = self._connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [row(**dict(zip(names, values, strict=True))) for values in cursor]

    def one(self, row: type[Row], sql: str, parameters: Parameters = ()) -> Row | None:
        """Read the first row into the dataclass `row`; None if there is none."""
        rows = self.all(row, f"{sql} LIMIT 1", parameters)
        return rows[0] if rows else None

    def column(self, sql: str, parameters: Parameters = ()) -> list[str]:
        """Read the first column, text, of every row."""
        with self._lock:
            return [values[0] for values in self._connection.execute(sql, parameters)]

    def number(self, sql: str, parameters: Parameters = ()) -> int | None:
        """Read the first column, an integer, of the first row; None if there is no row."""
        with self._lock:
            values = self._connection.execute(sql, parameters).fetchone()
        return None if values is None else int(values[0])


def _regexp(pattern: str, text: str | None) -> bool:
    return text is not None and re.search(pattern, text) is not None

"""An SQLite file that several daemons share and that may be lost: a damaged one is made anew.

    <name>.sqlite           the database
    <name>.lock             locked while it is used, and exclusively while it is thrown away

Each operation opens the file, does its work in one transaction and closes it: so nobody goes on
with a file that another daemon has thrown away, and no transaction outlives a `kill -9` by more
than its journal, which SQLite rolls back. Not in SQLite's WAL mode, which needs memory that all
users of the file share: a home directory on NFS has none. Blocking code, safe to call from any
thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from wbfs.model.errors import StoreError
from wbfs.store.folder import create_file, open_file, remove_foreign, store_error
from wbfs.store.known.failures import sqlite_failure

log = logging.getLogger(__name__)

BUSY_S = 2.0
"""Seconds to wait for other daemons that use the file."""
POLL_S = 0.02

_DAMAGED = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    # The statements are ours and never wrong: it is the schema that isn't.
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH,
}

T = TypeVar("T")


class Damaged(Exception):
    """The file is not what was written to it; `work` may raise it too."""


class SharedDatabase:
    """One such file."""

    def __init__(self, path: Path, *, format: int, schema: Sequence[str]) -> None:
        """Take the file's place. `format` is the number of the `schema`, whose statements make it.

        The file, and its folder, are made when they are needed.
        """
        self.path = path
        self._format = format
        self._schema = schema

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` finds. Raises StoreError."""
        return self._run("BEGIN", "read", work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Have `work` write, all of it or nothing. Raises StoreError, StoreFull."""
        return self._run("BEGIN IMMEDIATE", "write", work)

    def _run(self, begin: str, verb: str, work: Callable[[sqlite3.Connection], T]) -> T:
        what = f"{verb} {self.path}"
        try:
            return self._try(begin, work)
        except _DamagedFile as damage:
            # Somebody else may have done so in between, and all is well.
            self._throw_away(damage)
        except (sqlite3.Error, OSError) as error:
            raise _store_error(what, error) from error
        try:
            return self._try(begin, work)
        except _DamagedFile as damage:
            raise StoreError(f"can't {what}: it is damaged ({damage})") from damage
        except (sqlite3.Error, OSError) as error:
            raise _store_error(what, error) from error

    def _try(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock(fcntl.LOCK_SH):
            inode = self._inode()
            db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            try:
                self._prepare(db)
                db.execute(begin)
                result = work(db)
                db.execute("COMMIT")
                return result
            except (Damaged, sqlite3.Error) as error:
                if not _is_damage(error):
                    raise
                raise _DamagedFile(inode, str(error)) from error
            finally:
                db.close()

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Hold the lock file; raise BlockingIOError where others hold it for too long."""
        path = self.path.with_suffix(".lock")
        try:
            fd = create_file(path)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            fd = open_file(path)
        try:
            end = time.monotonic() + BUSY_S
            while True:
                try:
                    fcntl.flock(fd, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                time.sleep(POLL_S)
            yield
        finally:
            os.close(fd)

    def _inode(self) -> int | None:
        """Return the file's, once all that isn't ours has made way."""
        for path in (Path(f"{self.path}-journal"), self.path):
            remove_foreign(path)
        with contextlib.suppress(FileNotFoundError):
            return self.path.lstat().st_ino
        return None

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables of a new file. Raises StoreError for a file of another format."""
        if _format_of(db) == self._format:
            return
        db.execute("BEGIN IMMEDIATE")
        found = _format_of(db)
        if found == 0:
            for statement in (*self._schema, f"PRAGMA user_version = {self._format}"):
                db.execute(statement)
        elif found != self._format:
            raise StoreError(
                f"{self.path} was made by another version of wbfs; use that one, or another"
                " --cache-dir"
            )
        db.execute("COMMIT")

    def _throw_away(self, damage: _DamagedFile) -> None:
        """Remove the damaged file unless it has been replaced already."""
        try:
            with self._lock(fcntl.LOCK_EX):
                if damage.inode is None or self._inode() != damage.inode:
                    return
                # The journal first: SQLite would roll an old one back into the new file.
                Path(f"{self.path}-journal").unlink(missing_ok=True)
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise _store_error(f"throw away the damaged {self.path}", error) from error
        log.warning("%s was damaged (%s): it is made anew", self.path, damage)


class _DamagedFile(Exception):
    def __init__(self, inode: int | None, reason: str) -> None:
        super().__init__(reason)
        self.inode = inode


def _format_of(db: sqlite3.Connection) -> int:
    (number,) = db.execute("PRAGMA user_version").fetchone()
    assert isinstance(number, int)
    return number


def _is_damage(error: Exception) -> bool:
    if isinstance(error, Damaged):
        return True
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Of a text that is no UTF-8 Python says so itself.
        return isinstance(error, sqlite3.OperationalError)
    # The lower byte is the error, the rest says more of it.
    return code & 0xFF in _DAMAGED


def _store_error(doing: str, error: sqlite3.Error | OSError) -> StoreError:
    if isinstance(error, BlockingIOError):
        return StoreError(f"can't {doing}: other daemons have held it for {BUSY_S:.0f} s")
    if isinstance(error, OSError):
        return store_error(doing, error)
    return sqlite_failure(doing, error)

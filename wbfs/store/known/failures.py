"""What SQLite's errors are to who uses the cache."""

from __future__ import annotations

import os
import sqlite3

from wbfs.model.errors import StoreError, StoreFull
from wbfs.store.folder import store_error


def sqlite_failure(doing: str, error: sqlite3.Error) -> StoreError:
    """Return the StoreError that says what was being done and why it failed."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"can't {doing}: the disk is full; free space or use --cache-dir")
    if code == sqlite3.SQLITE_CANTOPEN:
        # SQLite doesn't say why: most often no descriptor is left.
        try:
            os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
        except OSError as why:
            return store_error(doing, why)
    return StoreError(f"can't {doing}: {error}")

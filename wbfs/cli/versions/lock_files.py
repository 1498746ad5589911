"""Lock files on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from wbfs.model.errors import UsageError
from wbfs.model.locks import Locked, parse_locks, render_locks


def read_locks(path: Path) -> dict[str, Locked]:
    """Return what a lock file says, by name. Raises UsageError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"can't read the lock file {path}: {error.strerror}; wbfs lock NAME... writes one"
        ) from error
    return parse_locks(text, str(path))


def write_locks(path: Path, locked: Iterable[Locked]) -> None:
    """Write a lock file, whole or not at all. Raises UsageError."""
    # Where a link leads, and not in its place.
    path = Path(os.path.realpath(path))
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        try:
            draft.write_bytes(render_locks(locked))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"can't write the lock file {path}: {error.strerror}") from error

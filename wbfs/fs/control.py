"""`.wbfs/` at the mount's root: not listed, but it can be opened and tells how the mount is.

status.json     what is mounted and how it goes
metrics         counters in the Prometheus text format
errors.jsonl    the last errors with their cause in words, since a program sees an errno only
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from wbfs.fs.inodes import FIRST_CONTROL_FILE, Inode

CONTROL_NAME = ".wbfs"
MAX_ERRORS = 200
"""Errors that errors.jsonl holds."""


@dataclass(frozen=True, slots=True)
class ControlFile:
    """A file whose contents are made when it is opened."""

    inode: Inode
    name: str
    render: Callable[[], bytes]


class Control:
    """The files of the control folder."""

    def __init__(self, renderers: Mapping[str, Callable[[], bytes]]) -> None:
        """Take the files' names and what makes their contents."""
        self.files = [
            ControlFile(Inode(FIRST_CONTROL_FILE + number), name, render)
            for number, (name, render) in enumerate(renderers.items())
        ]

    def by_name(self, name: str) -> ControlFile | None:
        """Return the file of that name."""
        return next((file for file in self.files if file.name == name), None)

    def by_inode(self, inode: Inode) -> ControlFile | None:
        """Return the file of that number."""
        return next((file for file in self.files if file.inode == inode), None)


class ErrorLog:
    """The last errors that a program saw, oldest first."""

    def __init__(self) -> None:
        self._errors: deque[dict[str, str]] = deque(maxlen=MAX_ERRORS)

    def add(self, *, operation: str, errno_name: str, error: Exception) -> None:
        """Keep an error."""
        self._errors.append(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "operation": operation,
                "errno": errno_name,
                "error": type(error).__name__,
                "cause": str(error),
            }
        )

    def render(self) -> bytes:
        """Return the errors as JSON, one a line."""
        return "".join(json.dumps(error) + "\n" for error in self._errors).encode()

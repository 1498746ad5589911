"""`.wbfs/` at the mount's root: not listed, but its owner can open it and see how the mount is.

The name is the mount's own there, whatever an artifact holds; below the root it is like others.

status.json     what is mounted and how it goes
metrics         counters in the Prometheus text format
errors.jsonl    the last errors with their cause in words, since a program sees an errno only
fetches.jsonl   how the last fetch of each of the latest files went
refresh         has the mount ask anew what its aliases are; says how many names have changed
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from wbfs.fs.inodes import FIRST_CONTROL_FILE, Inode
from wbfs.fs.nodes import Directory, FolderDirectory, VersionDirectory, path_of

log = logging.getLogger(__name__)

CONTROL_NAME = ".wbfs"
WHY_LEFT_OUT = "its name is the mount's own at the mount's root"
LATEST = 3
"""Errors that status.json has, too."""
MAX_ERRORS = 200
"""Errors that errors.jsonl holds."""


@dataclass(frozen=True, slots=True)
class ControlFile:
    """A file whose contents are made when it is opened."""

    inode: Inode
    name: str
    render: Callable[[], Awaitable[bytes]]


class LeftOut:
    """What isn't shown at the mount's root, since its name is the mount's own there.

    `places` are the directories that have such an entry: versions by their ids, others by path.
    """

    def __init__(self) -> None:
        self.places: set[str] = set()

    def add(self, root: Directory) -> None:
        """Note that the directory at the mount's root has such an entry."""
        match root:
            case VersionDirectory():
                place = root.version.id
            case FolderDirectory():
                place = root.top.version.id
            case _:
                place = path_of(root)
        if place not in self.places:
            self.places.add(place)
            log.warning("%s/%s is left out: %s", path_of(root), CONTROL_NAME, WHY_LEFT_OUT)


class Control:
    """The files of the control folder."""

    def __init__(
        self,
        renderers: Mapping[str, Callable[[], bytes]],
        orders: Mapping[str, Callable[[], Awaitable[bytes]]],
    ) -> None:
        """Take the files' names and what makes their contents; `orders` do something first."""
        files = {name: _at_once(render) for name, render in renderers.items()} | dict(orders)
        self.files = [
            ControlFile(Inode(FIRST_CONTROL_FILE + number), name, render)
            for number, (name, render) in enumerate(files.items())
        ]
        self._by_inode = {file.inode: file for file in self.files}

    def by_name(self, name: str) -> ControlFile | None:
        """Return the file of that name."""
        return next((file for file in self.files if file.name == name), None)

    def by_inode(self, inode: Inode) -> ControlFile | None:
        """Return the file of that number."""
        return self._by_inode.get(inode)


def _at_once(render: Callable[[], bytes]) -> Callable[[], Awaitable[bytes]]:
    async def rendered() -> bytes:
        return render()

    return rendered


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

    def last(self) -> list[dict[str, str]]:
        """Return the latest few, the latest first."""
        return list(self._errors)[: -LATEST - 1 : -1]

    def render(self) -> bytes:
        """Return the errors as JSON, one a line."""
        return "".join(json.dumps(error) + "\n" for error in self._errors).encode()

"""The kernel's requests that are being answered, and for whom: why a program waits.

Trio thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pyfuse3
import trio

from wbfs.fs.handles import HandleId

SHOWN = 20
"""Requests under way that are told, the oldest."""


@dataclass(eq=False, slots=True)
class Request:
    """A request of the kernel with what pyfuse3 gave its operation, and when in trio's time."""

    operation: str
    arguments: tuple[Any, ...]
    since_s: float


class UnderWay:
    """The requests under way, and which processes have opened which files."""

    def __init__(self) -> None:
        # In the order in which they came.
        self._requests: dict[Request, None] = {}
        self._opened: dict[HandleId, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def begin(self, operation: str, arguments: tuple[Any, ...]) -> Request:
        """Note a request."""
        request = Request(operation, arguments, trio.current_time())
        self._requests[request] = None
        return request

    def end(self, request: Request) -> None:
        """Note that it is answered."""
        del self._requests[request]

    def opened(self, handle: HandleId, path: str, pid: int) -> None:
        """Note that a process opened an artifact's file."""
        self._opened[handle] = (path, pid)

    def closed(self, handle: HandleId) -> None:
        """Note that it is closed."""
        self._opened.pop(handle, None)

    @property
    def open_files(self) -> int:
        """How many files of artifacts are open."""
        return len(self._opened)

    def report(self) -> list[dict[str, Any]]:
        """Return the requests that have waited longest, with who waits for what, where it is known.

        A read is told as one of the process that opened the file.
        """
        now = trio.current_time()
        return [
            dict(zip(("path", "pid"), self._about(request), strict=True))
            | {"operation": request.operation, "seconds": round(now - request.since_s, 3)}
            for request, _ in zip(self._requests, range(SHOWN), strict=False)
        ]

    def _about(self, request: Request) -> tuple[str | None, int | None]:
        """Return what it is about, and which process it is of."""
        arguments = request.arguments
        if request.operation == "read":
            return self._opened.get(arguments[0], (None, None))
        name = next((one for one in arguments if isinstance(one, bytes)), None)
        asking = arguments[-1] if arguments else None
        return (
            None if name is None else os.fsdecode(name),
            asking.pid if isinstance(asking, pyfuse3.RequestContext) else None,
        )

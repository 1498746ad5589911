"""The kernel's requests that are being answered, and for whom: why a program waits.

Trio thread.
"""

from __future__ import annotations

import os
import time
from itertools import islice
from typing import Any, NamedTuple, NewType, Protocol

import pyfuse3

from wbfs.fs.handles import HandleId

SHOWN = 20
"""Requests under way that are told, the oldest."""


RequestId = NewType("RequestId", int)


class Named(Protocol):
    """What has a path."""

    @property
    def path(self) -> str:
        """The path."""


class Request(NamedTuple):
    """A request of the kernel with what pyfuse3 gave its operation, and when it came."""

    operation: str
    arguments: tuple[Any, ...]
    since_s: float


class UnderWay:
    """The requests under way, and which processes have opened which files."""

    def __init__(self) -> None:
        # In the order in which they came.
        self._requests: dict[RequestId, tuple[str, tuple[Any, ...], float]] = {}
        self._last = 0
        self._opened: dict[HandleId, tuple[Named, int]] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def begin(self, operation: str, arguments: tuple[Any, ...]) -> RequestId:
        """Note a request."""
        self._last += 1
        request = RequestId(self._last)
        # Most are answered at once, and nobody looks: a `Request` is made for who does.
        self._requests[request] = operation, arguments, time.monotonic()
        return request

    def end(self, request: RequestId) -> None:
        """Note that it is answered."""
        del self._requests[request]

    def opened(self, handle: HandleId, file: Named, pid: int) -> None:
        """Note that a process opened an artifact's file."""
        self._opened[handle] = file, pid

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
        now = time.monotonic()
        longest = [Request(*one) for one in islice(self._requests.values(), SHOWN)]
        return [
            dict(zip(("path", "pid"), self._about(request), strict=True))
            | {"operation": request.operation, "seconds": round(now - request.since_s, 3)}
            for request in longest
        ]

    def _about(self, request: Request) -> tuple[str | None, int | None]:
        """Return what it is about, and which process it is of."""
        arguments = request.arguments
        if request.operation == "read":
            opened = self._opened.get(arguments[0])
            return (opened[0].path, opened[1]) if opened else (None, None)
        name = next((one for one in arguments if isinstance(one, bytes)), None)
        asking = arguments[-1] if arguments else None
        return (
            None if name is None else os.fsdecode(name),
            asking.pid if isinstance(asking, pyfuse3.RequestContext) else None,
        )

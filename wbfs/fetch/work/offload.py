"""The one door from trio to worker threads: each kind of work has its own, bounded number of them.

`model`, `remote` and `store` block; nothing else calls them from trio in ways that may take long.
The kinds are apart so that no number of slow downloads keeps a look-up from its thread, and so are
the servers that bytes come from: one that is silent holds up nobody but who reads from it.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

import trio

T = TypeVar("T")


class Kind(StrEnum):
    """What a thread is used for."""

    METADATA = "metadata"  # names, listings
    URLS = "urls"  # signed URLs of files
    SIZES = "sizes"  # sizes that no manifest tells
    MANIFEST = "manifest"  # what files versions have: large ones take long
    DATA = "data"  # file bytes that a program waits for
    AHEAD = "ahead"  # bytes of an open file that it may want next
    DISK = "disk"  # the local cache
    SYNC = "sync"  # the local cache, until it is safely on its disk
    CHECK = "check"  # digests of whole large files
    COPY = "copy"  # large files that come, to where they are got to
    READERS = "readers"  # whose run it is that reads
    LINEAGE = "lineage"  # telling the server what runs read


THREADS = {
    Kind.METADATA: 16,
    Kind.URLS: 8,
    Kind.SIZES: 16,
    Kind.MANIFEST: 8,
    Kind.DATA: 32,
    Kind.AHEAD: 16,
    Kind.DISK: 8,
    Kind.SYNC: 2,
    Kind.CHECK: 2,
    Kind.COPY: 4,
    Kind.READERS: 1,
    Kind.LINEAGE: 1,
}
OTHER_DESCRIPTORS = 40
"""What a mount has open at rest: its log, its processes, a few connections."""
DESCRIPTORS = 8
"""What may be open for each thread of a kind: files of the cache, a connection, other kinds'."""


def threads(kind: Kind) -> int:
    """Return how many threads there are of a kind, of bytes and sizes for each server.

    That many requests are on the wire, or reads on the disk, at most.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return THREADS[kind]
    return max(1, min(THREADS[kind], (allowed - OTHER_DESCRIPTORS) // DESCRIPTORS))


class Offload:
    """Runs blocking functions in worker threads."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        # One is here while it is in use.
        self._limiters: dict[tuple[Kind, str], trio.CapacityLimiter] = {}
        self._afterwards: dict[Kind, Callable[[], None]] = {}

    def afterwards(self, kind: Kind, function: Callable[[], None]) -> None:
        """Have `function` called whenever work of that kind has ended."""
        self._afterwards[kind] = function

    async def run(
        self, kind: Kind, function: Callable[[], T], *, origin: str = "", to_the_end: bool = False
    ) -> T:
        """Run `function` in a thread of that kind and return what it returns.

        `origin` is the server that the function waits for, where there may be several. The function
        keeps to its own deadline. When the caller is cancelled, which for a flight is at the
        mount's end only, the thread is left to find out by `checkpoint`; `to_the_end` the caller
        waits until it has, and has tidied up.
        """
        key = (kind, origin)
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._limiters[key] = trio.CapacityLimiter(threads(kind))
        try:
            return await trio.to_thread.run_sync(
                function, limiter=limiter, abandon_on_cancel=not to_the_end
            )
        finally:
            found = limiter.statistics()
            if not found.borrowed_tokens and not found.tasks_waiting:
                self._limiters.pop(key, None)
            if (afterwards := self._afterwards.get(kind)) is not None:
                afterwards()

    def post(self, function: Callable[[], object]) -> None:
        """Have `function` called soon in the trio thread; to be called from a worker thread.

        Once only, however often it is posted before that.
        """
        self._token.run_sync_soon(function, idempotent=True)

    def ask(self, function: Callable[[], T]) -> T:
        """Have `function` called in the trio thread, and return what it returns.

        To be called from a worker thread that `run` has started.
        """
        return trio.from_thread.run_sync(function)

    def is_waited_for(self, kind: Kind) -> bool:
        """Whether work of that kind waits for a thread."""
        return any(
            limiter.statistics().tasks_waiting
            for (limited, _), limiter in self._limiters.items()
            if limited is kind
        )

    def busy(self) -> dict[str, int]:
        """How many threads of each kind are at work; in any thread."""
        busy = dict.fromkeys((kind.value for kind in Kind), 0)
        for (kind, _), limiter in list(self._limiters.items()):
            busy[kind.value] += limiter.borrowed_tokens
        return busy


def checkpoint() -> None:
    """Raise trio.Cancelled in a worker thread whose caller was cancelled."""
    trio.from_thread.check_cancelled()

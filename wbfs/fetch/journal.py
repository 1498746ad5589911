"""Which files are being fetched, since when and for whom, and how the last fetches of files went.

For people who ask why something is slow. Trio thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import trio

from wbfs.fetch.wanted import Wanted
from wbfs.model.entries import Blob
from wbfs.model.errors import WbfsError

LAST = 1000
"""Files of which it is known how their last fetch went."""
SHOWN = 20
"""Fetches under way that are told, the oldest."""


@dataclass(eq=False, slots=True)
class Fetch:
    """A fetch under way; `brought` are the bytes that have come, as far as they are told."""

    wanted: Wanted
    why: str
    size: int | None
    started_s: float
    brought: int = 0

    def report(self) -> dict[str, Any]:
        """Return what is known of it; its time is in seconds, and 0.001 of one at least."""
        return {
            "path": self.wanted.path,
            "why": self.why,
            "bytes": self.brought,
            "size": self.size,
            "seconds": round(max(trio.current_time() - self.started_s, 0.001), 3),
        }


class Journal:
    """The fetches of one session."""

    def __init__(self, *, by_gateway: Callable[[Blob], bool] = lambda blob: False) -> None:
        """`by_gateway` tells whether bytes of a blob came by a gateway."""
        self._by_gateway = by_gateway
        # In the order in which they began.
        self._under_way: dict[Fetch, None] = {}
        self._last: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def begin(self, wanted: Wanted, why: str, size: int | None) -> Fetch:
        """Note that bytes are fetched from now on, `size` of them."""
        fetch = Fetch(wanted, why, size, trio.current_time())
        self._under_way[fetch] = None
        return fetch

    def end(self, fetch: Fetch, error: WbfsError | None) -> None:
        """Note that it is over. One that nobody wanted any more before a byte came is none."""
        del self._under_way[fetch]
        if error is None and not fetch.brought:
            return
        path = fetch.wanted.path
        self._last[path] = fetch.report() | {
            "at": time.time(),
            "error": str(error) if error is not None else None,
            "by_gateway": self._by_gateway(fetch.wanted.entry.blob),
        }
        self._last.move_to_end(path)
        if len(self._last) > LAST:
            self._last.popitem(last=False)

    def under_way(self) -> list[dict[str, Any]]:
        """Return the oldest fetches that are under way."""
        return [fetch.report() for fetch, _ in zip(self._under_way, range(SHOWN), strict=False)]

    def last(self) -> list[dict[str, Any]]:
        """Return how the last fetches went, one a file, oldest first."""
        return [last | {"at": _iso_time(last["at"])} for last in self._last.values()]


def _iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")

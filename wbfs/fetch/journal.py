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
        return self.report_at(trio.current_time())

    def report_at(self, moment: float) -> dict[str, Any]:
        """Return what was known of it at a moment of trio's clock."""
        return {
            "path": self.wanted.path,
            "why": self.why,
            "bytes": self.brought,
            "size": self.size,
            "seconds": round(max(moment - self.started_s, 0.001), 3),
        }


@dataclass(eq=False, slots=True)
class _Ended:
    """A fetch that is over: at which moments of trio's clock and since the epoch, and how.

    What is told of it is made when it is told: of few that is.
    """

    fetch: Fetch
    ended_s: float
    at_s: float
    error: str | None
    by_gateway: bool

    def report(self) -> dict[str, Any]:
        """Return what is known of it."""
        return self.fetch.report_at(self.ended_s) | {
            "at": _iso_time(self.at_s),
            "error": self.error,
            "by_gateway": self.by_gateway,
        }


class Journal:
    """The fetches of one session."""

    def __init__(self, *, by_gateway: Callable[[Blob], bool] | None = None) -> None:
        """`by_gateway` tells whether bytes of a blob came by a gateway, where there is one."""
        self._by_gateway = by_gateway
        # In the order in which they began.
        self._under_way: dict[Fetch, None] = {}
        self._last: OrderedDict[str, _Ended] = OrderedDict()

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
        asks = self._by_gateway
        by_gateway = asks is not None and asks(fetch.wanted.entry.blob)
        text = str(error) if error is not None else None
        self._last[path] = _Ended(fetch, trio.current_time(), time.time(), text, by_gateway)
        self._last.move_to_end(path)
        if len(self._last) > LAST:
            self._last.popitem(last=False)

    def under_way(self) -> list[dict[str, Any]]:
        """Return the oldest fetches that are under way."""
        return [fetch.report() for fetch, _ in zip(self._under_way, range(SHOWN), strict=False)]

    def last(self) -> list[dict[str, Any]]:
        """Return how the last fetches went, one a file, oldest first."""
        return [ended.report() for ended in self._last.values()]


def _iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")

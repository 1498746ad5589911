"""Running fetches that others can join: whatever many want at once is asked for once.

A flight runs in the background and outlives who started it. Its waiters wait with a deadline and
get a value or an error; a slow flight holds up nobody but them. Trio thread only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from wbfs.fetch.work.background import Background, Work
from wbfs.model.errors import RemoteTimeout, WbfsError, while_doing

SLACK_S = 1.0
"""Seconds that waiters give a flight past their time-out: it has the same, and knows the reason."""

T = TypeVar("T")


class Flights(Generic[T]):
    """The running fetches of one sort, by what they fetch."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._flights: dict[Hashable, Work[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def join(
        self, key: Hashable, fetch: Callable[[], Awaitable[T]], *, timeout_s: float, what: str
    ) -> T:
        """Return what the flight `key` brings; `fetch` starts it where none is under way.

        Raises what `fetch` raised, with `what` in front of its text, or RemoteTimeout
        `SLACK_S` after `timeout_s` seconds; the flight goes on then.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = self._background.spawn(
                lambda: self._fly(key, fetch, what), name=what
            )
        with trio.move_on_after(timeout_s + SLACK_S):
            return await flight.result()
        raise no_answer(what, timeout_s)

    async def _fly(self, key: Hashable, fetch: Callable[[], Awaitable[T]], what: str) -> T:
        try:
            return await fetch()
        except WbfsError as error:
            raise while_doing(what, error) from error
        finally:
            del self._flights[key]


def no_answer(what: str, timeout_s: float) -> RemoteTimeout:
    """Return the error of what has not come in time."""
    return RemoteTimeout(
        f"can't {what}: no answer within {timeout_s:.0f} s; the server or the network is slow: try"
        " again, or raise --timeout"
    )

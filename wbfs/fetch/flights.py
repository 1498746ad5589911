"""Running fetches that others can join: whatever many want at once is asked for once.

A flight runs in the mount's nursery and outlives who started it. Its waiters wait with a deadline
and get a value or an error; a slow flight holds up nobody but them. Trio thread only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from wbfs.model.errors import RemoteError, RemoteTimeout, WbfsError, while_doing

SLACK_S = 1.0
"""Seconds that waiters give a flight past their time-out: it has the same, and knows the reason."""

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = trio.Event()
        self.value: T | None = None
        # What waiters are told if the mount ends before the flight does.
        self.error: Exception | None = RemoteError("the mount is being taken down")


class Flights(Generic[T]):
    """The running fetches of one sort, by what they fetch."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def join(
        self, key: Hashable, fetch: Callable[[], Awaitable[T]], *, timeout_s: float, what: str
    ) -> T:
        """Return what the flight `key` brings; `fetch` starts it where none is under way.

        Raises what `fetch` raised, with `what` in front of its text, or RemoteTimeout
        `SLACK_S` after `timeout_s` seconds; the flight goes on then.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, fetch, what, name=f"flight: {what}")
        with trio.move_on_after(timeout_s + SLACK_S):
            await flight.landed.wait()
        if not flight.landed.is_set():
            raise RemoteTimeout(
                f"can't {what}: no answer within {timeout_s:.0f} s; the server or the network is"
                " slow: try again, or raise --timeout"
            )
        if flight.error is not None:
            raise flight.error
        # None is a value as good as any: T may be optional.
        return flight.value  # type: ignore[return-value]

    async def _fly(
        self, key: Hashable, flight: _Flight[T], fetch: Callable[[], Awaitable[T]], what: str
    ) -> None:
        try:
            flight.value = await fetch()
            flight.error = None
        except WbfsError as error:
            flight.error = while_doing(what, error)
        except Exception as error:  # noqa: BLE001 - it reaches every waiter, and their boundary
            flight.error = error
        finally:
            del self._flights[key]
            flight.landed.set()

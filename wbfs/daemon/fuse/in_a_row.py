"""Has pyfuse3 take requests one after another while there are any, not one a round of trio's loop.

For each request pyfuse3 takes a lock of trio's, which lets all other tasks go first, and then waits
for the kernel until trio's next round: two thirds of what a request takes that is answered at once,
as each `open` of an epoch's files is. Here the task that has answered one takes the next, if it is
there already, and the other tasks have their turn every few requests.

pyfuse3 finds trio by a global name of its own, which its `asyncio` module changes as well. Were it
to look elsewhere one day, all would go on as without this. Trio thread.
"""

from __future__ import annotations

import select
from types import TracebackType
from typing import Any

import pyfuse3
import trio

MOST = 16
"""Requests in a row, after which all other tasks have their turn: within a millisecond, of such as
are answered at once."""


class _Lock:
    """Whose turn it is to take a request: whoever comes first, be it the one that had it last."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._waiting.park()
        self._is_held = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_held = False
        # It runs once the one that had the turn waits for something, and looks again.
        self._waiting.unpark()


class _Lowlevel:
    """`trio.lowlevel` but for one function."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._fd = -1
        self._in_a_row = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        """Wait until there is a request."""
        if fd != self._fd:
            self._poll, self._fd = select.poll(), fd
            self._poll.register(fd, select.POLLIN)
        if self._in_a_row < MOST and self._poll.poll(0):
            self._in_a_row += 1
            return
        self._in_a_row = 0
        while True:
            await trio.lowlevel.wait_readable(fd)
            # It may be gone again by now: whoever asked was killed, or has been answered. pyfuse3
            # would wait for another one to come, and with it all that this process does.
            if self._poll.poll(0):
                return


class _Trio:
    """`trio` for pyfuse3."""

    def __init__(self) -> None:
        self.Lock = _Lock
        self.lowlevel = _Lowlevel()

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def take_requests_in_a_row() -> None:
    """Have pyfuse3 do so; to be called before its `main`."""
    pyfuse3.trio = _Trio()  # type: ignore[attr-defined]

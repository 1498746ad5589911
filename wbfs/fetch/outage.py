"""Whether the server can be had: an outage is waited for once and not by every program.

After a question that failed, what has an older answer is given that at once, and a short question
now and then finds out whether the server is back. What has none is still asked for, with all
retries, until the outage is as old as one operation may wait; from then on it fails within a
second. Trio thread, but for `ask`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import trio

from wbfs.fetch.background import Background, Work
from wbfs.model.errors import Offline, RemoteError, WbfsError
from wbfs.remote.graphql import QueryRefused
from wbfs.remote.transport import Deadline

T = TypeVar("T")

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""Seconds after a failure in which older answers are given without asking whether it is over."""
PROBE_WAIT_S = 0.7
"""Seconds that what has no older answer waits for the server to be back."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Since when it lasts and why, and until which moments of trio's clock to be patient, quiet."""

    since: datetime
    error: RemoteError
    patient_until: float
    quiet_until: float


class Reach:
    """What is known of the way to the server."""

    def __init__(
        self, *, probe: Callable[[], Awaitable[object]], background: Background, timeout_s: float
    ) -> None:
        """`probe` asks the server a short question; `timeout_s` is how long an operation may wait.

        It raises RemoteError where the server can't be had.
        """
        self._probe = probe
        self._background = background
        self._timeout_s = timeout_s
        self._probing: Work[None] | None = None
        self.outage: Outage | None = None

    def lost(self, error: RemoteError, *, asked_at: float) -> None:
        """Note that a question failed that was asked at that moment of trio's clock."""
        now = trio.current_time()
        outage = self.outage
        if outage is None:
            log.warning("the server can't be had: %s; what it said before stands", error)
        self.outage = Outage(
            since=outage.since if outage else datetime.now(UTC),
            error=error,
            patient_until=outage.patient_until if outage else asked_at + self._timeout_s,
            quiet_until=now + QUIET_S,
        )

    def is_hopeless(self) -> bool:
        """Whether the server was waited for long enough already."""
        outage = self.outage
        return outage is not None and trio.current_time() >= outage.patient_until

    def ask(self, question: Callable[[Deadline], T], deadline: Deadline) -> T:
        """Ask the server from a worker thread: shortly, where it was waited for long enough.

        Raises what `question` raises, which is given the deadline to keep.
        """
        asked_at = trio.from_thread.run_sync(trio.current_time)
        if trio.from_thread.run_sync(self.is_hopeless):
            deadline = min(deadline, Deadline.after(PROBE_WAIT_S), key=lambda one: one.at_s)
        try:
            answer = question(deadline)
        except Offline:
            raise
        except QueryRefused:
            trio.from_thread.run_sync(self.found)
            raise
        except RemoteError as error:
            trio.from_thread.run_sync(partial(self.lost, error, asked_at=asked_at))
            raise
        trio.from_thread.run_sync(self.found)
        return answer

    def found(self) -> None:
        """Note that the server answered."""
        if self.outage is not None:
            log.info("the server answers again")
        self.outage = None

    async def check(self, *, has_answer: bool) -> None:
        """Raise RemoteError where it is of no use to ask the server.

        `has_answer` tells whether there is an older answer to be given instead.
        """
        outage, now = self.outage, trio.current_time()
        if outage is None or not has_answer and now < outage.patient_until:
            return
        if not has_answer:
            with trio.move_on_after(PROBE_WAIT_S):
                await self._start_probe().ended.wait()
            if self.outage is None:
                return
        elif now >= outage.quiet_until:
            self._start_probe()
        # Of the same kind: silence is another errno than a refusal.
        raise type(outage.error)(
            f"the server can't be had since {outage.since.isoformat(timespec='seconds')}:"
            f" {outage.error}"
        ) from outage.error

    def _start_probe(self) -> Work[None]:
        if self._probing is None:
            self._probing = self._background.spawn(self._try_server, name="probe of the server")
        return self._probing

    async def _try_server(self) -> None:
        asked_at = trio.current_time()
        try:
            await self._probe()
        except RemoteError as error:
            self.lost(error, asked_at=asked_at)
        except WbfsError as error:
            log.info("the server says: %s", error)
            self.found()
        else:
            self.found()
        finally:
            self._probing = None

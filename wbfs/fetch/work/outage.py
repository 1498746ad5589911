"""Whether the server can be had: an outage is waited for once and not by every program.

After a question that failed, what has an older answer is given that at once, and a short question
now and then finds out whether the server is back. What has none is still asked for, with all
retries, until the outage is as old as one operation may wait; from then on it fails within a
second. Trio thread, but for `ask`.

Of the servers that references name nothing else is known: one that has not answered for two files
in a row is asked for no other for a while.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import trio

from wbfs.fetch.work.background import Background, Work
from wbfs.model.errors import Offline, RemoteError, WbfsError
from wbfs.model.lately import Lately
from wbfs.remote.api.graphql import QueryRefused
from wbfs.remote.http.transport import Deadline

T = TypeVar("T")

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""Seconds after a failure in which older answers are given without asking whether it is over."""
PROBE_WAIT_S = 0.7
"""Seconds that what has no older answer waits for the server to be back."""
LEFT_ALONE_S = 10.0
"""Seconds in which a reference's server that has not answered is asked shortly, or not at all."""
SHORT_S = 1.0
"""Seconds that it has to answer shortly."""
MOST_SERVERS = 1000
"""Such servers that are remembered."""


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


@dataclass(frozen=True, slots=True)
class _Silence:
    """What a server failed on, how often in a row, and until when that is remembered."""

    error: RemoteError
    count: int
    until: float


class SilentServers:
    """Which of the servers that references name have not answered lately."""

    def __init__(self) -> None:
        self._silences: Lately[str, _Silence] = Lately(MOST_SERVERS)
        # When they answered last, by trio's clock.
        self._answers: Lately[str, float] = Lately(MOST_SERVERS)

    def patience_s(self, origin: str, timeout_s: float) -> float:
        """Return the seconds to wait for a server's answer, where `timeout_s` is the most.

        One file may be at fault: the next is asked for, shortly. Raises RemoteError where that has
        brought nothing either.
        """
        silence = self._silence_of(origin)
        if silence is None:
            return timeout_s
        if silence.count > 1:
            raise silence.error.with_traceback(None)
        return min(SHORT_S, timeout_s)

    def failed(self, origin: str, error: RemoteError, *, asked_at: float, timeout_s: float) -> None:
        """Note that asking has failed, with `timeout_s` to wait; an error at once is an answer."""
        now = trio.current_time()
        before = self._silence_of(origin)
        is_answer = before is None and now - asked_at < timeout_s / 3
        if is_answer or (self._answers.get(origin) or -math.inf) > asked_at:
            return
        count = before.count + 1 if before else 1
        self._silences.put(origin, _Silence(error, count, now + LEFT_ALONE_S))

    def _silence_of(self, origin: str) -> _Silence | None:
        silence = self._silences.get(origin)
        return silence if silence and trio.current_time() < silence.until else None

    def answered(self, origin: str) -> None:
        """Note that a server answered."""
        self._silences.pop(origin)
        self._answers.put(origin, trio.current_time())

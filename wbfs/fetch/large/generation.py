"""One generation of a large file's bytes: what of them is here, and what is on its way.

A flight is one request for an extent. Its bytes are in the store as they come, and a reader goes on
as soon as its own are there; no byte is asked for while it is on its way. Of a server that knows no
ranges one flight brings all of the file, from its first byte on, and readers wait for their part:
that is the first to which it sends all, and no other is made beside it. Whether the bytes are right
is not known here. Trio thread, but for what runs in `Offload`.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from wbfs.fetch.large.flight import Flight, Opening, bring
from wbfs.fetch.large.planner import Plan, segments
from wbfs.fetch.resources import Resources
from wbfs.fetch.transfer import RangesIgnored, damaged
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.background import Work
from wbfs.fetch.work.flights import SLACK_S, no_answer
from wbfs.fetch.work.offload import Kind
from wbfs.model.entries import Blob
from wbfs.model.errors import IntegrityError, StoreError, WbfsError, while_doing
from wbfs.store.content.large_blob import LargeBlob

log = logging.getLogger(__name__)

PATIENCE = 1 << 20
"""Bytes that may come on a connection before those that a read out of order waits for. Where more
are to come, and are not there in `PATIENCE_S` seconds, it gets a connection of its own."""
PATIENCE_S = 0.1
STALLED_S = 4.0
"""Seconds without a byte after which what is still missing of an answer is asked for anew."""
AT_ONCE = 16
"""Requests at once for a file that is wanted whole."""
SAVED_AFTER_S = 1.0
"""Seconds until what has come is noted for a later mount."""
PAST_STORE_S = 10.0
"""Seconds in which a disk that takes no bytes is not tried again."""


class Generation:
    """The bytes of one content from the first that comes until all are here, or are dropped."""

    def __init__(
        self,
        resources: Resources,
        blob: LargeBlob,
        *,
        content: Blob,
        on_landed: Callable[[Wanted], None],
    ) -> None:
        """`blob` is to hold `content`, of known size.

        `on_landed` is called when a request has ended, with what it was for.
        """
        assert content.size is not None
        self.blob = blob
        self.held = blob.held
        # Some of it came from where others may have put anything: none is shown before it is
        # checked, nor kept for a later mount, which would not know.
        self.is_doubtful = False
        self._resources = resources
        self._content = content
        self._size = content.size
        self._on_landed = on_landed
        self._flights: list[Flight] = []
        # The one that brings all of the file.
        self._whole: Flight | None = None
        self._past_store_until = -math.inf
        self._saving: Work[None] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are here, and none is on its way."""
        return self.held.total == self._size and not self._flights

    @property
    def is_past_store(self) -> bool:
        """Whether its disk takes no more bytes for now."""
        return trio.current_time() < self._past_store_until or self._resources.room.is_full

    @property
    def requests(self) -> int:
        """How many are under way."""
        return len(self._flights)

    def read_ahead_for(self) -> list[Opening]:
        """Return the handles that requests under way are ahead of, once a request."""
        return [flight.ahead_for for flight in self._flights if flight.ahead_for is not None]

    def leave_store(self) -> None:
        """Have what is missing read past the store for a while: its disk is in trouble."""
        self._past_store_until = trio.current_time() + PAST_STORE_S

    async def read(self, offset: int, size: int) -> memoryview:
        """Read exactly `size` bytes that are here. Raises StoreError."""
        blob = self.blob
        return await self._resources.read(blob.read_in_memory, blob.read, offset, size)

    async def bring(self, wanted: Wanted, gaps: list[tuple[int, int]], plan: Plan) -> None:
        """Have the missing bytes of a read on their way, and wait for the first of them.

        Raises WbfsError.
        """
        flight = self._ask(wanted, gaps, plan)[0]
        is_near = gaps[0][0] - flight.position <= PATIENCE
        if plan.in_order or is_near or flight is self._whole:
            await self._wait(flight, gaps[0][1], wanted)
        else:
            await self._wait_a_moment(flight, gaps[0], wanted)

    def read_ahead(self, opening: Opening, start: int, stop: int) -> None:
        """Ask for what is missing of an extent and not on its way."""
        if self.is_past_store:
            return
        for gap_start, gap_stop in self.held.missing(start, stop):
            at = gap_start
            while at < gap_stop:
                flight = self._flight_at(at)
                if flight is None:
                    end = min(gap_stop, self._next_flight(at))
                    flight = self._start(opening.wanted, at, end, ahead_for=opening)
                at = flight.stop

    def stop_reading_ahead(self, opening: Opening) -> None:
        """End the requests that were made ahead of a handle and that nobody waits for."""
        for flight in self._flights:
            if flight.ahead_for is opening and not flight.waiters:
                flight.end_at(max(flight.noted, flight.position))

    def stop_whole(self) -> None:
        """End the flight that brings all of the file, unless somebody waits for it."""
        if self._whole is not None and not self._whole.waiters:
            self._whole.end_at(max(self._whole.noted, self._whole.position))

    async def fill(
        self,
        wanted: Wanted,
        *,
        on_progress: Callable[[], None],
        before_more: Callable[[], Awaitable[None]],
    ) -> None:
        """Have all that is missing fetched.

        `on_progress` is called now and then, when there is more of it, and more is asked for once
        `before_more` has returned. Raises WbfsError.
        """
        under_way: deque[Flight] = deque()
        for start, stop in self.held.missing(0, self._size):
            for segment in segments(start, stop):
                # Others may have brought some of it meanwhile.
                gaps = self.held.missing(*segment)
                under_way.extend(self._ask(wanted, gaps, Plan(stop=segment[1], in_order=True)))
                while len(under_way) >= AT_ONCE:
                    await _landed(under_way.popleft())
                    on_progress()
                    await before_more()
        # Also those whose bytes have all come.
        under_way.extend(flight for flight in self._flights if flight not in under_way)
        while under_way:
            await _landed(under_way.popleft())
            on_progress()

    @property
    def settled_stop(self) -> int:
        """Up to where nothing is missing, nor being written."""
        # A request that was parted may still write up to a piece past its new end.
        gaps = self.held.missing(0, self._size)
        return min(
            gaps[0][0] if gaps else self._size,
            min((flight.noted for flight in self._flights), default=self._size),
        )

    def close(self) -> None:
        """Let go of the store's file, with nothing on its way."""
        if self._saving is not None:
            # Something has come since it was flushed.
            self._saving.cancel()
            self.save_now()
        self.blob.close()

    def _forget_saving(self) -> None:
        if self._saving is not None:
            self._saving.cancel()

    async def flush(self) -> None:
        """Have what it holds safely on disk, for a later mount."""
        self._forget_saving()
        if self.held.total and not self.is_doubtful:
            held = list(self.held)
            await self._keep(Kind.SYNC, lambda: self.blob.flush(held))

    async def save(self) -> None:
        """Note what it holds, for a later mount, without waiting for the disk."""
        if not self.is_doubtful:
            held = list(self.held)
            await self._keep(Kind.DISK, lambda: self.blob.save(held))

    def save_now(self) -> None:
        """Do so in this thread: there is no time for another."""
        if self.is_doubtful:
            return
        try:
            self.blob.save(list(self.held))
        except StoreError as error:
            log.info("%s; a later mount starts anew", error)

    async def _keep(self, kind: Kind, note: Callable[[], None]) -> None:
        try:
            await self._resources.offload.run(kind, note)
        except StoreError as error:
            log.info("%s; a later mount starts anew", error)

    def _ask(self, wanted: Wanted, gaps: list[tuple[int, int]], plan: Plan) -> list[Flight]:
        """Have all of the gaps on their way; return their flights in order."""
        asked = []
        for start, stop in gaps:
            at = start
            while at < stop:
                flight = self._flight_at(at)
                if flight is None:
                    end = min(max(stop, plan.stop), self._next_flight(at))
                    flight = self._start(wanted, at, self.held.missing(at, end)[0][1])
                asked.append(flight)
                at = flight.stop
        return asked

    def _flight_at(self, position: int) -> Flight | None:
        for flight in self._flights:
            if flight.noted <= position < flight.stop:
                return flight
        return None

    def _next_flight(self, position: int) -> int:
        return min((f.noted for f in self._flights if f.noted > position), default=self._size)

    def _start(
        self,
        wanted: Wanted,
        start: int,
        stop: int,
        *,
        ahead_for: Opening | None = None,
        goes_on: bool = False,
    ) -> Flight:
        flight = Flight(start, stop, start, start, ahead_for, goes_on)
        if self._resources.ranges.sends_parts(self._origin(wanted)) is False:
            self._bring_whole(flight)
        self._flights.append(flight)
        self._resources.background.spawn(
            partial(self._fly, wanted, flight), name=f"fetch {wanted.path}"
        )
        return flight

    def _origin(self, wanted: Wanted) -> str | None:
        return self._resources.sources.origin(wanted.version, wanted.entry)

    def _bring_whole(self, flight: Flight) -> None:
        """Have a flight bring all of the file from what is missing first, whatever it was for.

        What is before that may have been hashed, and is not written again.
        """
        self._whole = flight
        start, _ = self.held.missing(0, self._size)[0]
        flight.start = flight.position = flight.noted = start
        flight.stop = self._size

    def _on_whole(self, wanted: Wanted, flight: Flight, position: int) -> int:
        """Take note that a server sends all, and return from where on it is written down.

        Raises RangesIgnored for all flights but one.
        """
        self._resources.ranges.note(self._origin(wanted), sends_parts=False)
        if self._whole is flight:
            return position
        is_on_its_way = self._whole is not None and self._whole.stop == self._size
        if is_on_its_way or not self.held.missing(flight.noted, flight.stop):
            # Those who wait for its bytes find out that another one brings them, or has done so.
            flight.end_at(flight.noted)
            raise RangesIgnored("the file comes by another request")
        self._bring_whole(flight)
        return flight.start

    async def _fly(self, wanted: Wanted, flight: Flight) -> None:
        resources = self._resources
        size = flight.stop - flight.start
        if not resources.ranges.sends_parts(self._origin(wanted)):
            # It may come to bring all.
            size = self._size
        why = "read-ahead" if flight.ahead_for else "a reader"
        noted = resources.journal.begin(wanted, why, size)

        def note() -> None:
            self._note(flight)
            noted.brought = flight.noted - flight.start

        def on_whole(position: int) -> int:
            return resources.offload.ask(partial(self._on_whole, wanted, flight, position))

        try:
            await bring(
                resources, self.blob, wanted, flight, size=size, note=note, on_whole=on_whole
            )
            flight.error = None
            if flight.position > flight.start > 0 and flight is not self._whole:
                # Not from the file's first byte, so that it was a part.
                resources.ranges.note(self._origin(wanted), sends_parts=True)
        except RangesIgnored:
            flight.error = None
        except IntegrityError as error:
            flight.error = damaged(wanted.entry, error)
        except WbfsError as error:
            flight.error = error
        except Exception as error:  # noqa: BLE001 - it is noted, and told to those who wait
            flight.error = resources.background.defect(f"fetch {wanted.path}", error)
        finally:
            self._land(wanted, flight)
            noted.brought = flight.noted - flight.start
            resources.journal.end(noted, flight.error)

    def _note(self, flight: Flight) -> None:
        """Take note of what has come, and let those go on who waited for it."""
        position = flight.position
        if position > flight.noted:
            gateway = self._resources.sources.gateway
            self.is_doubtful = self.is_doubtful or gateway.needs_check(self._content)
            self.held.add(flight.noted, position)
            self._resources.counters.fetched_bytes += position - flight.noted
            flight.noted = position
        waiting = []
        for stop, arrived in flight.waiters:
            if flight.landed.is_set() or stop <= position:
                arrived.set()
            else:
                waiting.append((stop, arrived))
        flight.waiters = waiting

    def _land(self, wanted: Wanted, flight: Flight) -> None:
        flight.landed.set()
        self._flights.remove(flight)
        if self._whole is flight:
            self._whole = None
        self._note(flight)
        if isinstance(flight.error, StoreError):
            if not self.is_past_store:
                log.debug("%s is read past the cache: %s", wanted.path, flight.error)
            self.leave_store()
        elif flight.error is not None:
            self._resources.counters.failed_fetches += 1
            if flight.ahead_for is not None:
                log.info("%s could not be read ahead: %s", wanted.path, flight.error)
        if self._saving is None:
            self._saving = self._resources.background.spawn(
                self._save_soon, name=f"save {wanted.path}"
            )
        self._on_landed(wanted)

    async def _save_soon(self) -> None:
        try:
            await trio.sleep(SAVED_AFTER_S)
        finally:
            self._saving = None
        await self.save()

    async def _wait(self, flight: Flight, stop: int, wanted: Wanted) -> None:
        """Wait until a flight has come to `stop`, or to its end; raise its error.

        But for that of a disk: those bytes can be had past it.
        """
        timeout_s = self._resources.timeout_s
        stalled_s = min(STALLED_S, timeout_s / 2)
        while not flight.landed.is_set() and flight.noted < (until := min(stop, flight.stop)):
            before = flight.noted
            has_stalled = before > flight.start
            arrived = trio.Event()
            waiter = (until, arrived)
            flight.waiters.append(waiter)
            try:
                with trio.move_on_after(stalled_s if has_stalled else timeout_s + SLACK_S):
                    await arrived.wait()
            finally:
                if waiter in flight.waiters:
                    flight.waiters.remove(waiter)
            # As long as something comes, a slow network is no failure.
            if arrived.is_set() or flight.noted > before:
                continue
            if has_stalled:
                self._part(wanted, flight, flight.noted)
                return
            raise no_answer(f"read {wanted.path}", timeout_s)
        error = flight.error
        is_over = flight.landed.is_set() and flight.noted < stop
        if is_over and error is not None and not isinstance(error, StoreError):
            raise while_doing(f"read {wanted.path}", error) from error

    async def _wait_a_moment(self, flight: Flight, gap: tuple[int, int], wanted: Wanted) -> None:
        """Wait for bytes far behind those that a flight brings now; then fetch them separately."""
        start, stop = gap
        with trio.move_on_after(PATIENCE_S):
            await self._wait(flight, stop, wanted)
        if flight.position + PATIENCE < start and flight is not self._whole:
            self._part(wanted, flight, start)

    def _part(self, wanted: Wanted, flight: Flight, position: int) -> None:
        """Have what comes after `position` fetched by another request."""
        if flight in self._flights and flight.stop > position:
            stop = flight.stop
            flight.end_at(position)
            self._start(wanted, position, stop, goes_on=True)


async def _landed(flight: Flight) -> None:
    # It has its own deadline, and no time runs against those that wait for a thread.
    await flight.landed.wait()
    if flight.error is not None:
        raise flight.error

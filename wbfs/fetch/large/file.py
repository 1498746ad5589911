"""A large file: fetched in extents, by what is read of it, and sealed once it is whole.

A flight is one request for an extent. Its bytes are in the store as they come, and a reader goes on
as soon as its own are there; no byte is asked for while it is on its way. Trio thread, but for what
runs in `Offload`.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from wbfs.fetch.flights import SLACK_S, Flights
from wbfs.fetch.large.pages import UncheckedPages
from wbfs.fetch.large.planner import Plan, ReadAhead, segments
from wbfs.fetch.offload import Kind
from wbfs.fetch.resources import Resources
from wbfs.fetch.transfer import damaged, stretched, transfer
from wbfs.fetch.wanted import Wanted
from wbfs.model.errors import (
    IntegrityError,
    RemoteTimeout,
    StoreError,
    StoreFull,
    WbfsError,
    while_doing,
)
from wbfs.remote.transport import Deadline
from wbfs.store.blobs import SealedBlob

log = logging.getLogger(__name__)

PATIENCE = 1 << 20
"""Bytes that may come on a connection before those that a read out of order waits for. Where more
are to come, and are not there in `PATIENCE_S` seconds, it gets a connection of its own."""
PATIENCE_S = 0.1
STALLED_S = 4.0
"""Seconds without a byte after which what is still missing of an answer is asked for anew."""
AT_ONCE = 8
"""Requests at once for a file that is until whole."""
SAVED_AFTER_S = 1.0
"""Seconds until what has come is noted for a later mount."""
PAST_STORE_S = 10.0
"""Seconds in which a full disk is not tried again."""


@dataclass(eq=False, slots=True)
class Opening:
    """One open handle. The kernel keeps the pages that are read through it for `inode`."""

    wanted: Wanted
    inode: int
    closed: bool = False


@dataclass(eq=False, slots=True)
class _Flight:
    """A request under way: of [start, stop), what is before `position` has come.

    The worker thread raises `position`, of which the trio thread has seen `noted`; the trio thread
    may lower `stop`. `ahead_for` is None where somebody waits for it.
    """

    start: int
    stop: int
    position: int
    noted: int
    ahead_for: Opening | None
    landed: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None
    waiters: list[tuple[int, trio.Event]] = field(default_factory=list)


class LargeFile:
    """One content that is being read, shared by all handles on it."""

    def __init__(
        self,
        resources: Resources,
        pages: UncheckedPages,
        wanted: Wanted,
        *,
        verify: bool,
        mismatches: int,
        on_landed: Callable[[LargeFile], None],
    ) -> None:
        """With `verify` no byte is served before all were checked. Raises StoreError.

        `mismatches` is how often the bytes were wrong before. `on_landed` is called whenever
        something that was under way is no longer.
        """
        blob = wanted.entry.blob
        assert blob.size is not None
        self.size = blob.size
        self.key = blob.key
        self.users = 0
        self.mismatches = mismatches
        self.sealed: SealedBlob | None = None
        # Of all handles: what one has read the kernel keeps for the others, so that the requests
        # for one program's bytes come through any of them.
        self.runs = ReadAhead(blob.size)
        self._resources = resources
        self._pages = pages
        self._verify = verify
        self._on_landed = on_landed
        self._partial = resources.partial.large(blob)
        self._held = self._partial.held
        self._flights: list[_Flight] = []
        self._whole: Flights[SealedBlob] = Flights(resources.background)
        self._past_store: Flights[memoryview] = Flights(resources.background)
        self._past_store_until = -math.inf
        self._failure: WbfsError | None = None
        self._checking = False
        self._check_ended = trio.Event()
        self._sealing = False
        self._seal_ended = trio.Event()
        self._seal_error: StoreError | None = None
        self._save_is_due = False

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it and nothing is under way."""
        return not (self.users or self._flights or self._checking or self._sealing)

    def flights(self, *, ahead: bool) -> int:
        """Return how many requests are under way, for readers or ahead of them."""
        return sum((flight.ahead_for is not None) is ahead for flight in self._flights)

    async def read(self, opening: Opening, offset: int, size: int, plan: Plan) -> memoryview:
        """Return exactly `size` bytes at `offset`, which the file must have. Raises WbfsError."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._verify and self.sealed is None:
                await self.whole(opening.wanted)
            gaps = self._held.missing(offset, offset + size)
            if not gaps:
                mismatches = self.mismatches
                data = await self._resources.pread(self._partial.fd, offset, size)
                if mismatches == self.mismatches:
                    if self.sealed is None:
                        self._pages.add(self.key, opening.inode)
                    return data
            elif self._is_past_store:
                return await self._read_past_store(opening.wanted, offset, offset + size)
            else:
                flight = self._ask(opening.wanted, gaps, plan)[0]
                if plan.in_order or gaps[0][0] - flight.position <= PATIENCE:
                    await self._wait(flight, gaps[0][1], opening.wanted)
                else:
                    await self._wait_a_moment(flight, gaps[0], opening.wanted)

    def read_ahead(self, opening: Opening, start: int, stop: int) -> None:
        """Ask for what is missing of an extent and not on its way."""
        if self._verify or self._failure is not None or self._is_past_store:
            return
        for gap_start, gap_stop in self._held.missing(start, stop):
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
                flight.stop = max(flight.noted, flight.position)

    async def whole(self, wanted: Wanted) -> SealedBlob:
        """Fetch all that is missing, check it and return it. Raises WbfsError."""
        return await self._whole.join(
            self.key,
            lambda: self._fetch_whole(wanted),
            timeout_s=stretched(self._resources.timeout_s, self.size),
            what=f"read {wanted.path}",
        )

    async def flush(self) -> None:
        """Have what it holds safely on disk, unless it is sealed."""
        if self.sealed is None and self._held.total:
            held = list(self._held)
            try:
                await self._resources.offload.run(Kind.DISK, lambda: self._partial.flush(held))
            except StoreError as error:
                log.info("%s; a later mount starts anew", error)

    def save(self) -> None:
        """Note what it holds, for a later mount."""
        if self.sealed is None:
            try:
                self._partial.save(list(self._held))
            except StoreError as error:
                log.info("%s; a later mount starts anew", error)

    def seal_if_whole(self, wanted: Wanted) -> None:
        """Have it checked and sealed if all of its bytes are there."""
        is_whole = self._held.total == self.size and not self._flights
        if is_whole and not (self._checking or self._sealing or self.sealed or self._seal_error):
            self._sealing = True
            self._seal_ended = trio.Event()
            self._resources.background.spawn(lambda: self._seal(wanted), name=f"seal {wanted.path}")

    def _check_soon(self, wanted: Wanted) -> None:
        """Take what is there into the digest while the rest comes: somebody waits for all of it."""
        if not (self._checking or self._sealing or self.sealed):
            self._checking = True
            self._check_ended = trio.Event()
            self._resources.background.spawn(
                lambda: self._check(wanted), name=f"check {wanted.path}"
            )

    async def _check(self, wanted: Wanted) -> None:
        # A request that was parted may still write up to a piece past its new end.
        gaps = self._held.missing(0, self.size)
        stop = min(
            gaps[0][0] if gaps else self.size,
            min((flight.noted for flight in self._flights), default=self.size),
        )
        try:
            await self._resources.offload.run(Kind.CHECK, lambda: self._partial.check_ahead(stop))
        except StoreError as error:
            log.info("%s; it is tried again when all is there", error)
        finally:
            self._checking = False
            self._check_ended.set()
            self.seal_if_whole(wanted)
            self._on_landed(self)

    def close(self) -> None:
        """Let go of the store's file; only when it is idle, and for good."""
        self._partial.close()

    @property
    def _is_past_store(self) -> bool:
        return trio.current_time() < self._past_store_until or self._resources.room.is_full

    def _ask(self, wanted: Wanted, gaps: list[tuple[int, int]], plan: Plan) -> list[_Flight]:
        """Have all of the gaps on their way; return their flights in order."""
        asked = []
        for start, stop in gaps:
            at = start
            while at < stop:
                flight = self._flight_at(at)
                if flight is None:
                    end = min(max(stop, plan.stop), self._next_flight(at))
                    flight = self._start(wanted, at, self._held.missing(at, end)[0][1])
                asked.append(flight)
                at = flight.stop
        return asked

    def _flight_at(self, position: int) -> _Flight | None:
        for flight in self._flights:
            if flight.noted <= position < flight.stop:
                return flight
        return None

    def _next_flight(self, position: int) -> int:
        return min((f.noted for f in self._flights if f.noted > position), default=self.size)

    def _start(
        self, wanted: Wanted, start: int, stop: int, *, ahead_for: Opening | None = None
    ) -> _Flight:
        flight = _Flight(start, stop, start, start, ahead_for)
        self._flights.append(flight)
        self._resources.background.spawn(
            lambda: self._fly(wanted, flight), name=f"fetch {wanted.path}"
        )
        return flight

    async def _fly(self, wanted: Wanted, flight: _Flight) -> None:
        resources = self._resources

        def note() -> None:
            self._note(flight)

        def write(offset: int, piece: bytes) -> None:
            self._partial.write(offset, piece)
            flight.position = offset + len(piece)
            resources.offload.post(note)

        def fetch() -> None:
            transfer(
                resources.opener(wanted),
                wanted.entry,
                write,
                path=wanted.path,
                start=flight.start,
                stop=lambda: flight.stop,
                deadline=Deadline.after(stretched(resources.timeout_s, flight.stop - flight.start)),
            )

        try:
            await resources.offload.run(Kind.AHEAD if flight.ahead_for else Kind.DATA, fetch)
        except IntegrityError as error:
            flight.error = damaged(wanted.entry, error)
        except Exception as error:  # noqa: BLE001 - it reaches every waiter, and their boundary
            flight.error = error
        finally:
            self._land(wanted, flight)

    def _note(self, flight: _Flight) -> None:
        """Take note of what has come, and let those go on who waited for it."""
        position = flight.position
        if position > flight.noted:
            self._held.add(flight.noted, position)
            self._resources.counters.fetched_bytes += position - flight.noted
            flight.noted = position
        waiting = []
        for stop, arrived in flight.waiters:
            if flight.landed.is_set() or stop <= position:
                arrived.set()
            else:
                waiting.append((stop, arrived))
        flight.waiters = waiting

    def _land(self, wanted: Wanted, flight: _Flight) -> None:
        flight.landed.set()
        self._flights.remove(flight)
        self._note(flight)
        if isinstance(flight.error, StoreFull):
            log.debug("%s is read past the cache: %s", wanted.path, flight.error)
            self._past_store_until = trio.current_time() + PAST_STORE_S
        elif flight.error is not None:
            self._resources.counters.failed_fetches += 1
            if flight.ahead_for is not None:
                log.info("%s could not be read ahead: %s", wanted.path, flight.error)
        self.seal_if_whole(wanted)
        if not self._save_is_due and not self._sealing:
            self._save_is_due = True
            self._resources.background.spawn(self._save_soon, name=f"save {wanted.path}")
        self._on_landed(self)

    async def _wait(self, flight: _Flight, stop: int, wanted: Wanted) -> None:
        """Wait until a flight has come to `stop`, or to its end; raise its error.

        But for a full disk's: those bytes can be had past it.
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
            raise RemoteTimeout(
                f"can't read {wanted.path}: no answer within {timeout_s:.0f} s; the server or the"
                " network is slow: try again, or raise --timeout"
            )
        error = flight.error
        if error is None or isinstance(error, StoreFull) or flight.noted >= stop:
            return
        if isinstance(error, WbfsError):
            raise while_doing(f"read {wanted.path}", error) from error
        raise error

    async def _wait_a_moment(self, flight: _Flight, gap: tuple[int, int], wanted: Wanted) -> None:
        """Wait for bytes far behind those that a flight brings now; then fetch them separately."""
        start, stop = gap
        with trio.move_on_after(PATIENCE_S):
            await self._wait(flight, stop, wanted)
        if flight.position + PATIENCE < start:
            self._part(wanted, flight, start)

    def _part(self, wanted: Wanted, flight: _Flight, position: int) -> None:
        """Have what comes after `position` fetched by another request."""
        if flight in self._flights and flight.stop > position:
            flight.stop, stop = position, flight.stop
            self._start(wanted, position, stop)

    async def _read_past_store(self, wanted: Wanted, start: int, stop: int) -> memoryview:
        """Fetch just what is read, into memory: there is no room on the disk."""

        async def fetch() -> memoryview:
            buffer = bytearray(stop - start)

            def write(offset: int, piece: bytes) -> None:
                buffer[offset - start : offset - start + len(piece)] = piece

            await self._resources.offload.run(
                Kind.DATA,
                lambda: transfer(
                    self._resources.opener(wanted),
                    wanted.entry,
                    write,
                    path=wanted.path,
                    start=start,
                    stop=lambda: stop,
                    deadline=Deadline.after(stretched(self._resources.timeout_s, stop - start)),
                ),
            )
            self._resources.counters.fetched_bytes += stop - start
            return memoryview(buffer)

        data = await self._past_store.join(
            (start, stop),
            fetch,
            timeout_s=self._resources.timeout_s,
            what=f"read {wanted.path}",
        )
        self._resources.counters.served_bytes += len(data)
        return data

    async def _fetch_whole(self, wanted: Wanted) -> SealedBlob:
        while self.sealed is None:
            if self._failure is not None:
                raise self._failure
            if self._seal_error is not None:
                raise self._seal_error
            if self._sealing:
                await self._seal_ended.wait()
                continue
            if self._checking:
                await self._check_ended.wait()
                continue
            under_way: deque[_Flight] = deque()
            for start, stop in self._held.missing(0, self.size):
                for segment in segments(start, stop):
                    plan = Plan(stop=segment[1], in_order=True)
                    under_way.extend(self._ask(wanted, [segment], plan))
                    while len(under_way) >= AT_ONCE:
                        await _land_one(under_way.popleft())
                        self._check_soon(wanted)
            # Also those whose bytes have all come: only then is it sealed.
            under_way.extend(flight for flight in self._flights if flight not in under_way)
            while under_way:
                await _land_one(under_way.popleft())
            self.seal_if_whole(wanted)
        return self.sealed

    async def _seal(self, wanted: Wanted) -> None:
        held = list(self._held)

        def seal() -> SealedBlob:
            # The check of a large file takes a while, in which the daemon may be killed.
            try:
                self._partial.save(held)
            except StoreError as error:
                log.info("%s; a later mount starts anew", error)
            return self._partial.seal()

        try:
            self.sealed = await self._resources.offload.run(Kind.CHECK, seal)
            self._resources.counters.fetched_files += 1
            self._resources.writeback.due()
            self._pages.are_right(self.key)
        except IntegrityError as error:
            await self._drop_all(wanted, error)
        except StoreError as error:
            # Whoever can do with bytes that were not checked reads them all the same.
            self._seal_error = error
            log.warning("%s stays unchecked: %s", wanted.path, error)
        finally:
            self._sealing = False
            self._seal_ended.set()
            self._on_landed(self)

    async def _drop_all(self, wanted: Wanted, mismatch: IntegrityError) -> None:
        """Drop bytes that are not the file's: from the store, and from the kernel's memory."""
        self.mismatches += 1
        self._held.clear()
        self._resources.counters.failed_fetches += 1
        if self.mismatches == 1:
            log.warning("%s: %s; it is fetched once more", wanted.path, mismatch)
        else:
            failure = damaged(wanted.entry, mismatch)
            self._failure = while_doing(f"read {wanted.path}", failure)
        # From now on nothing of it is served before it was checked.
        self._verify = True
        try:
            await self._resources.offload.run(Kind.DISK, self._partial.clear)
        except StoreError as error:
            self._seal_error = error
            log.warning("%s is not fetched again: %s", wanted.path, error)
        self._pages.are_wrong(self.key)

    async def _save_soon(self) -> None:
        await trio.sleep(SAVED_AFTER_S)
        self._save_is_due = False
        if self.sealed is None and not self._sealing:
            held = list(self._held)
            try:
                await self._resources.offload.run(Kind.DISK, lambda: self._partial.save(held))
            except StoreError as error:
                log.info("%s; a later mount starts anew", error)


async def _land_one(flight: _Flight) -> None:
    # It has its own deadline, and no time runs against those that wait for a thread.
    await flight.landed.wait()
    if flight.error is not None:
        raise flight.error

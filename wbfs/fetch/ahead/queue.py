"""Small files that nobody waits for yet, fetched into the store many at a time.

A process of its own does the work of it, so that it holds up nobody in this one. A file that is
wanted while it waits in the queue is taken out of it, and one that is on its way is waited for, so
that nothing is fetched twice. Trio thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import trio

from wbfs.fetch.apart.carrier import Carrier
from wbfs.fetch.apart.carrying import THREADS, Order
from wbfs.fetch.offload import Kind
from wbfs.fetch.resources import Resources
from wbfs.fetch.transfer import fetch_whole, stretched
from wbfs.fetch.wanted import Wanted
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import UrlExpired, WbfsError
from wbfs.remote.transport import Deadline

log = logging.getLogger(__name__)

FILES_AT_ONCE = THREADS * 3 // 2
"""Files that the process knows of: no thread of it should be without work."""
BYTES_AT_ONCE = 16 << 20
"""Bytes on their way at most, be it few files: what a program waits for needs the line too."""


class Outcome(Enum):
    """What became of a file in the queue; LEFT is one that is not prefetched after all."""

    FETCHED = auto()
    LEFT = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Job:
    """A file to be fetched; `done` is told what became of it, and why, in the trio thread.

    What `is_unread` is the first to be evicted, until it is opened.
    """

    wanted: Wanted
    done: Callable[[Outcome, WbfsError | None], None] = lambda outcome, error: None
    is_unread: bool = True

    @property
    def key(self) -> str:
        """What its content is known by."""
        return self.wanted.entry.blob.key

    @property
    def size(self) -> int:
        """Its bytes, as far as they are known."""
        return self.wanted.entry.size or 0


class Prefetch:
    """The queue of one session."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._carrier = Carrier(
            background=resources.background, setup=resources.setup, on_carried=self._note_carried
        )
        # By their contents' keys; what is wanted most comes first.
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._running_bytes = 0
        self._numbers = 0
        self._ordered: dict[int, Job] = {}
        self._landings: dict[str, trio.Event] = {}
        self._demanded: set[str] = set()
        # What programs wait for had the threads until then.
        resources.offload.afterwards(Kind.DATA, self._go_on)

    @property
    def backlog(self) -> int:
        """How many files nobody has begun to fetch."""
        return len(self._waiting)

    @property
    def in_progress(self) -> int:
        """How many files are on their way."""
        return len(self._running)

    def is_fetching(self, key: str) -> bool:
        """Whether the file with that content is on its way."""
        return key in self._running

    def add(self, *jobs: Job) -> None:
        """Put files into the queue; one whose content is under way already is LEFT."""
        for job in jobs:
            if job.key in self._waiting or job.key in self._running or job.key in self._demanded:
                job.done(Outcome.LEFT, None)
            else:
                self._waiting[job.key] = job
        self._go_on()

    async def prepare(self, version: Version, entries: Sequence[Entry]) -> list[Entry]:
        """Return those that the cache hasn't got, having asked for their URLs in one question.

        Raises WbfsError.
        """
        resources = self._resources

        def prepare() -> list[Entry]:
            missing = [entry for entry in entries if not resources.blobs.has(entry.blob)]
            deadline = Deadline.after(resources.timeout_s)
            resources.sources.prepare(version, missing, deadline=deadline)
            return missing

        return await resources.offload.run(Kind.METADATA, prepare)

    async def settled(self, key: str) -> None:
        """Wait until a file is neither in the queue nor on its way, however that ended."""
        if key in self._waiting or key in self._running:
            await self._landings.setdefault(key, trio.Event()).wait()

    @contextmanager
    def demand(self, key: str) -> Iterator[trio.Event | None]:
        """Leave a file to the caller, who fetches it now.

        Where it is on its way already, give the event of its arrival, however that goes.
        """
        job = self._waiting.pop(key, None)
        if job is not None:
            self._leave(job)
        self._demanded.add(key)
        try:
            is_fetching = self.is_fetching(key)
            yield self._landings.setdefault(key, trio.Event()) if is_fetching else None
        finally:
            self._demanded.discard(key)

    def clear(self) -> None:
        """Forget what is not on its way yet."""
        jobs = list(self._waiting.values())
        self._waiting.clear()
        for job in jobs:
            self._leave(job)

    def _go_on(self) -> None:
        """Have as many files fetched as may be, unless programs wait for others."""
        if not self._waiting or self._resources.offload.is_waited_for(Kind.DATA):
            return
        orders: list[Order] = []
        while self._waiting and len(self._running) < FILES_AT_ONCE:
            key, job = next(iter(self._waiting.items()))
            if self._running and self._running_bytes + job.size > BYTES_AT_ONCE:
                break
            del self._waiting[key]
            if self._resources.blobs.has(job.wanted.entry.blob):
                # A program has read it since it was planned.
                self._leave(job)
                continue
            self._running[key] = job
            self._running_bytes += job.size
            order = self._order(job)
            if order is not None:
                orders.append(order)
            else:
                self._resources.background.spawn(
                    partial(self._fetch_here, job), name="prefetch a file"
                )
        if orders:
            self._carrier.send(orders)

    def _order(self, job: Job) -> Order | None:
        """Return what to tell the process; None where only this one can find the bytes."""
        version, entry = job.wanted.version, job.wanted.entry
        location = self._resources.sources.location(version, entry)
        if location is None and (entry.reference is None or entry.reference.is_of_artifact):
            return None
        self._numbers += 1
        self._ordered[self._numbers] = job
        return Order(
            number=self._numbers,
            path=job.wanted.path,
            entry=entry,
            location=location,
            is_unread=job.is_unread,
        )

    async def _fetch_here(self, job: Job) -> None:
        resources = self._resources
        error: WbfsError | None = None
        try:
            await resources.offload.run(
                Kind.AHEAD,
                lambda: fetch_whole(
                    resources.opener(job.wanted),
                    resources.partial.small,
                    job.wanted.entry,
                    path=job.wanted.path,
                    deadline=Deadline.after(stretched(resources.timeout_s, job.size)),
                    is_unread=job.is_unread,
                ),
            )
        except WbfsError as raised:
            error = raised
        except Exception as defect:  # noqa: BLE001 - it is noted
            error = resources.background.defect(f"prefetch {job.wanted.path}", defect)
        self._note(job, error)
        self._go_on()

    def _note_carried(self, carried: list[tuple[int, WbfsError | None]]) -> None:
        for number, error in carried:
            self._note(self._ordered.pop(number), error)
        self._go_on()

    def _note(self, job: Job, error: WbfsError | None) -> None:
        resources, counters = self._resources, self._resources.counters
        del self._running[job.key]
        self._running_bytes -= job.size
        if error is None:
            resources.blobs.trust(job.wanted.entry.blob)
            counters.fetched_files += 1
            counters.fetched_bytes += job.size
            counters.prefetched_files += 1
            counters.prefetched_bytes += job.size
            resources.writeback.due()
        else:
            if isinstance(error, UrlExpired):
                resources.sources.forget_url(job.wanted.version, job.wanted.entry)
            counters.failed_prefetches += 1
            log.info("%s is not prefetched: %s", job.wanted.path, error)
        self._settle(job, Outcome.FETCHED if error is None else Outcome.FAILED, error)

    def _leave(self, job: Job) -> None:
        self._settle(job, Outcome.LEFT, None)

    def _settle(self, job: Job, outcome: Outcome, error: WbfsError | None) -> None:
        job.done(outcome, error)
        landing = self._landings.pop(job.key, None)
        if landing is not None:
            landing.set()

"""Small files that nobody waits for yet, fetched into the store many at a time.

Processes apart do the work of it, so that it holds up nobody in this one; what it fails to do is
done here. A file that is wanted while it waits in the queue is taken out of it, and one that is on
its way is waited for, so that nothing is fetched twice; but not for long where the process is
silent. Trio thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial

import trio

from wbfs.fetch.apart import small_files
from wbfs.fetch.apart.carriers import processors, small_carriers_for
from wbfs.fetch.apart.pool import Pool
from wbfs.fetch.apart.process import MOMENT_S, Lost, Process
from wbfs.fetch.apart.small_files import THREADS
from wbfs.fetch.journal import Fetch
from wbfs.fetch.resources import Resources
from wbfs.fetch.small.orders import Done, Order
from wbfs.fetch.transfer import deadline_of, fetch_whole, stretched
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.offload import Kind
from wbfs.model.entries import Blob, Entry, Version
from wbfs.model.errors import UrlExpired, WbfsError
from wbfs.remote.http.transport import Deadline
from wbfs.store.content.blobs import Known

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

    What `is_unread` is the first to be evicted, until it is opened. `blob` is its content, and
    `key` what that is known by.
    """

    wanted: Wanted
    done: Callable[[Outcome, WbfsError | None], None] = lambda outcome, error: None
    is_unread: bool = True
    blob: Blob = field(init=False)

    def __post_init__(self) -> None:
        # Made once: that takes as long as much else that is done here with a file.
        object.__setattr__(self, "blob", self.wanted.entry.blob)

    @property
    def key(self) -> str:
        return self.blob.key

    @property
    def size(self) -> int:
        """Its bytes, as far as they are known."""
        return self.wanted.entry.size or 0


class Landing:
    """The arrival of a file that is on its way."""

    def __init__(
        self, arrived: trio.Event, process: Process[Order, Done] | None, patience_s: float
    ) -> None:
        """`process` is what fetches it, if that is one apart."""
        self._arrived = arrived
        self._process = process
        self._patience_s = patience_s

    async def wait(self) -> None:
        """Wait until it has come or failed, or is better fetched by who waits for it."""
        with trio.move_on_after(self._patience_s):
            while not (self._arrived.is_set() or (self._process and self._process.is_quiet)):
                with trio.move_on_after(MOMENT_S):
                    await self._arrived.wait()


class Prefetch:
    """The queue of one session."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        # To start another one takes longer than most of what it would do.
        count = small_carriers_for(processors()) if resources.spares.made else 1
        program = small_files.program(resources.setup, processes=count)
        self._pool = Pool(resources.background, program, resources.spares, count=count)
        # Those that were told to fetch what is running, by its key.
        self._processes: dict[str, Process[Order, Done]] = {}
        # By their contents' keys; what is wanted most comes first.
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._fetches: dict[str, Fetch] = {}
        self._running_bytes = 0
        self._arrivals: dict[str, trio.Event] = {}
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
                self._tell(job, Outcome.LEFT, None)
            else:
                self._waiting[job.key] = job
        self._go_on()

    async def prepare(self, version: Version, entries: Sequence[Entry]) -> list[Entry]:
        """Return those that the cache hasn't got, having asked for their URLs in one question.

        Raises WbfsError.
        """
        return await self._resources.offload.run(
            Kind.URLS, partial(self.prepare_here, version, entries, is_ahead=True)
        )

    def prepare_here(
        self, version: Version, entries: Sequence[Entry], *, is_ahead: bool = False
    ) -> list[Entry]:
        """Do as `prepare` does, in a worker thread; `is_ahead` is as in `Sources.prepare`."""
        resources = self._resources
        missing = [entry for entry in entries if not resources.blobs.has(entry.blob)]
        deadline = Deadline.after(resources.timeout_s)
        resources.sources.prepare(version, missing, deadline=deadline, is_ahead=is_ahead)
        return missing

    @contextmanager
    def demand(self, key: str) -> Iterator[Landing | None]:
        """Leave a file to the caller, who fetches it now.

        Where it is on its way already, give its arrival, to be waited for before that.
        """
        job = self._waiting.pop(key, None)
        if job is not None:
            self._settle(job, Outcome.LEFT, None)
        self._demanded.add(key)
        # So that there is time left to fetch it.
        patience_s = self._resources.timeout_s / 2
        try:
            process = self._processes.get(key)
            is_fetching = self.is_fetching(key)
            yield Landing(self._arrival(key), process, patience_s) if is_fetching else None
        finally:
            self._demanded.discard(key)

    def _arrival(self, key: str) -> trio.Event:
        return self._arrivals.setdefault(key, trio.Event())

    def clear(self) -> None:
        """Forget what is not on its way yet."""
        jobs = list(self._waiting.values())
        self._waiting.clear()
        for job in jobs:
            self._settle(job, Outcome.LEFT, None)

    def _go_on(self) -> None:
        """Have as many files fetched as may be, unless programs wait for others."""
        if not self._waiting or self._resources.offload.is_waited_for(Kind.DATA):
            return
        while self._waiting and len(self._running) < FILES_AT_ONCE:
            key, job = next(iter(self._waiting.items()))
            if self._running and self._running_bytes + job.size > BYTES_AT_ONCE:
                break
            del self._waiting[key]
            self._running[key] = job
            self._fetches[key] = self._resources.journal.begin(job.wanted, "prefetch", job.size)
            self._running_bytes += job.size
            try:
                self._begin(job)
            except WbfsError as error:
                self._note(job, error)
            except Exception as defect:  # noqa: BLE001 - the others go on
                self._note(job, self._defect(job, defect))

    def _begin(self, job: Job) -> None:
        if self._resources.blobs.has(job.blob):
            # A program has read it since it was planned.
            self._end(job, Outcome.LEFT, None)
            return
        timeout_s = self._resources.timeout_s
        order = self._order(job)
        if order is not None:
            # It may wait there until all others have come that may be on their way.
            patience_s = timeout_s + stretched(timeout_s, BYTES_AT_ONCE)
            try:
                done = partial(self._note_done, job, order)
                process, _ = self._pool.order(order, done, timeout_s=patience_s)
                self._processes[job.key] = process
                return
            except Lost as error:
                log.debug("%s is prefetched here: %s", job.wanted.path, error)
        self._fetch_here_soon(job)

    def _order(self, job: Job) -> Order | None:
        """Return what to tell the process; None where only this one can find the bytes."""
        version, entry = job.wanted.version, job.wanted.entry
        location = self._resources.sources.location(version, entry)
        if location is None and (entry.reference is None or entry.reference.is_of_artifact):
            return None
        return Order(
            path=job.wanted.path,
            entry=entry,
            url=location.url if location is not None else "",
            by_gateway=self._resources.sources.gateway.is_asked,
            is_unread=job.is_unread,
        )

    def _note_done(
        self, job: Job, order: Order, done: Done | None, error: Exception | None
    ) -> None:
        """Note what the process did; what it failed at by its own fault is done here."""
        if done is not None:
            self._resources.sources.gateway.learn(
                job.blob, job.size if done.by_gateway else 0, trouble=done.gateway_trouble
            )
        if isinstance(error, UrlExpired):
            self._resources.sources.forget_url(job.wanted.version, job.wanted.entry, order.url)
        if error is None or (isinstance(error, WbfsError) and not isinstance(error, Lost)):
            self._note(job, error, done.known if done is not None else None)
        elif job.key in self._demanded:
            # By whoever waits for it.
            self._end(job, Outcome.LEFT, None)
        else:
            if not isinstance(error, Lost):
                self._defect(job, error)
            self._fetch_here_soon(job)
        self._go_on()

    def _fetch_here_soon(self, job: Job) -> None:
        self._resources.background.spawn(partial(self._fetch_here, job), name="prefetch a file")

    async def _fetch_here(self, job: Job) -> None:
        resources = self._resources
        error: WbfsError | None = None
        deadline = deadline_of(resources.timeout_s, job.size)
        fetch = partial(
            fetch_whole,
            resources.opener(job.wanted),
            resources.partial.small,
            job.wanted.entry,
            path=job.wanted.path,
            deadline=deadline,
            is_unread=job.is_unread,
        )
        try:
            await resources.fetch(Kind.AHEAD, job.wanted, fetch, deadline=deadline)
        except WbfsError as raised:
            error = raised
        except Exception as defect:  # noqa: BLE001 - it is noted
            error = self._defect(job, defect)
        self._note(job, error)
        self._go_on()

    def _note(self, job: Job, error: WbfsError | None, known: Known | None = None) -> None:
        if error is None:
            try:
                self._note_fetched(job, known)
            except Exception as defect:  # noqa: BLE001 - whoever waits is told
                error = self._defect(job, defect)
        if error is not None:
            self._resources.counters.failed_prefetches += 1
            log.info("%s is not prefetched: %s", job.wanted.path, error)
        self._end(job, Outcome.FETCHED if error is None else Outcome.FAILED, error)

    def _note_fetched(self, job: Job, known: Known | None) -> None:
        if known is not None:
            # By another process.
            self._resources.blobs.trust(job.blob, known)
        counters = self._resources.counters
        counters.fetched_files += 1
        counters.fetched_bytes += job.size
        counters.prefetched_files += 1
        counters.prefetched_bytes += job.size
        self._resources.writeback.due()

    def _end(self, job: Job, outcome: Outcome, error: WbfsError | None) -> None:
        """Note that a file is on its way no more."""
        del self._running[job.key]
        self._processes.pop(job.key, None)
        fetch = self._fetches.pop(job.key)
        if outcome is Outcome.FETCHED:
            fetch.brought = job.size
        self._resources.journal.end(fetch, error)
        self._running_bytes -= job.size
        self._settle(job, outcome, error)

    def _defect(self, job: Job, error: Exception) -> WbfsError:
        return self._resources.background.defect(f"prefetch {job.wanted.path}", error)

    def _settle(self, job: Job, outcome: Outcome, error: WbfsError | None) -> None:
        self._tell(job, outcome, error)
        arrived = self._arrivals.pop(job.key, None)
        if arrived is not None:
            arrived.set()

    def _tell(self, job: Job, outcome: Outcome, error: WbfsError | None) -> None:
        try:
            job.done(outcome, error)
        except Exception as defect:  # noqa: BLE001 - the others go on
            self._defect(job, defect)

"""Many files that somebody named, got to where they belong: slices, survey, fetch, delivery.

The manifest's entries are read a few hundred at a time; threads look which of them are where they
belong already; the others are fetched, small ones by the session's queue, with URLs asked for many
at a time, large ones a few at once; and a `Delivery` brings them to where they belong. Between the
survey and the fetch files are but numbers, so that a million of them take no memory. What goes
wrong with one file, be it by a defect, is noted, and the others go on. Trio thread.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from wbfs.fetch.ahead.loaders import BATCH
from wbfs.fetch.ahead.queue import Job, Outcome
from wbfs.fetch.bulk.delivery import Delivery
from wbfs.fetch.bulk.slices import OneFile, Slice, Slices
from wbfs.fetch.bulk.tally import Tally
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.resources import Resources
from wbfs.fetch.small.whole import is_large
from wbfs.fetch.transfer import stretched
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.background import Background, Work
from wbfs.fetch.work.flights import SLACK_S
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import NotFound, ReferenceMissing, StoreError, WbfsError
from wbfs.store.known.manifest_table import ROOT_FOLDER, Found

log = logging.getLogger(__name__)

SURVEYS_AT_ONCE = 4
"""Slices that are looked at at the same time, each in a thread."""
BATCHES_AHEAD = 3
"""Batches of files that are asked for before it is their turn: a question takes a while."""
FILES_AT_ONCE = 32
"""Files that are delivered, and waited for, at the same time."""
LARGE_FILES_AT_ONCE = 4
"""Large files that are fetched at the same time, each over several connections."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A file of a version, or all below a folder whose path starts with `path_prefix` too.

    An empty `path` is the whole version.
    """

    version: Version
    path: str = ""
    path_prefix: str = ""


class Pipeline:
    """One run: the files of some selections, and where they are to go."""

    def __init__(
        self,
        *,
        fetcher: Fetcher,
        resources: Resources,
        selections: Sequence[Selection],
        delivery: Delivery,
        allow_missing_references: bool = False,
    ) -> None:
        """With `allow_missing_references` a reference whose object is gone is no failure."""
        self.tally = Tally(resources.counters, full=delivery.full)
        self._fetcher = fetcher
        self._queue = fetcher.prefetch
        self._resources = resources
        self._background = resources.background
        self._selections = selections
        self._delivery = delivery
        self._allow_missing = allow_missing_references
        self._scope = trio.CancelScope()
        self._looks = _AtOnce(resources.background, SURVEYS_AT_ONCE, fail=self._fail)
        self._questions = _AtOnce(resources.background, BATCHES_AHEAD, fail=self._fail)
        self._small = _AtOnce(resources.background, FILES_AT_ONCE, fail=self._fail)
        self._large = _AtOnce(resources.background, LARGE_FILES_AT_ONCE, fail=self._fail)
        self._to_get = _ToGet()
        # Set when the queue is through with a file, by its content's key.
        self._through: dict[str, trio.Event] = {}
        self._queue_is_stuck = False

    async def note_left_out(self) -> None:
        """Count among the failures what the manifests have and no tree can. Raises WbfsError."""
        for selection in self._selections:
            left_out = (await self._fetcher.manifest(selection.version)).left_out
            prefix = selection.path_prefix
            named = [(path, why) for path, why in left_out.report if path.startswith(prefix)]
            # Of those without a name nobody knows whether they are meant.
            self.tally.note_left_out(named, left_out.count - len(left_out.report))

    async def survey(self) -> None:
        """Look at all files before any is fetched; else `run` looks while it fetches.

        Raises WbfsError: NotFound where a version has no such file or folder.
        """
        counting = None
        try:
            # What isn't there is said before anything is begun.
            selected = [(one.version, await self._slices(one)) for one in self._selections]
            counting = self._background.spawn(self._count, name="count the files", is_awaited=True)
            has_begun = False
            for version, slices in selected:
                while not self.tally.gave_up and (piece := await slices.next()) is not None:
                    if not has_begun:
                        await self._delivery.begin()
                        has_begun = True
                    doing = f"look for {version.path}/{piece.folder}"
                    look = partial(self._look, version, piece)
                    await self._looks.start(piece.entries, doing, look)
            await self._looks.ended()
            await counting.result()
        finally:
            if counting is not None:
                counting.cancel()
            self._to_get.end()

    async def run(self) -> None:
        """Get all files, but for those that fail: `tally` says of them.

        Raises WbfsError where there is no manifest, or no way to begin.
        """
        surveying = None
        if not self._to_get.has_ended:
            surveying = self._background.spawn(
                self.survey, name="look what is there", is_awaited=True
            )
        try:
            with self._scope:
                await self._feed()
                if surveying is not None:
                    await surveying.result()
                await self._small.ended()
                await self._large.ended()
        finally:
            if surveying is not None:
                surveying.cancel()
            self._stop()
        await self._delivery.end()

    async def _count(self) -> None:
        for selection in self._selections:
            slices = await self._slices(selection)
            while (piece := await slices.next()) is not None:
                self.tally.files += len(piece.files)
                self.tally.bytes += piece.size
        self.tally.is_counted = True

    async def _slices(self, selection: Selection) -> Slices | OneFile:
        """Return what is selected. Raises NotFound, WbfsError."""
        version, path = selection.version, selection.path
        table = await self._fetcher.manifest(version)
        found: Found | None = Found(ROOT_FOLDER, 0, is_folder=True)
        for part in path.split("/") if path else ():
            found = table.find(found.id, part) if found and found.is_folder else None
        if found is None:
            raise NotFound(f"{version.path} has no file or folder {path!r}: check the spelling")
        file = None if found.is_folder else table.file(found.id)
        if file is not None:
            return OneFile(file)
        # One goes on where the other ends: a mount shows no other folder.
        prefix = max(f"{path}/" if path else "", selection.path_prefix, key=len)
        return Slices(partial(self._fetcher.manifest, version), prefix)

    async def _look(self, version: Version, piece: Slice) -> None:
        found = await self._delivery.look(piece)
        self.tally.note_right(found.right)
        for entry, error in found.failures:
            self._fail([entry], error)
        self._to_get.add(version, [file.id for file in found.to_get])

    async def _feed(self) -> None:
        """Have the files got that the survey finds; some batches are asked for ahead."""
        ahead: deque[list[Wanted]] = deque()
        while ahead or await self._to_get.has_more():
            while len(ahead) < BATCHES_AHEAD and (batch := self._to_get.take()) is not None:
                ahead.append(await self._ask_for(batch))
            for wanted in ahead.popleft():
                works = self._large if is_large(wanted.entry) else self._small
                get = partial(self._get, wanted)
                await works.start([wanted.entry], f"get {wanted.path}", get)

    async def _ask_for(self, batch: _Batch) -> list[Wanted]:
        """Return a batch's files, small ones first; those are put into the queue meanwhile.

        Raises WbfsError where there is no manifest.
        """
        table = await self._fetcher.manifest(batch.version)
        files = [table.file(number) for number in batch.numbers]
        entries = sorted((file.entry for file in files if file), key=is_large)
        small = {one.blob.key: one for one in entries if one.size and not is_large(one)}
        if small and not self._queue_is_stuck:
            through = {key: trio.Event() for key in small}
            self._through.update(through)
            enqueue = partial(self._enqueue, batch.version, list(small.values()), through)
            await self._questions.start([], "fetch files many at a time", enqueue)
        return [Wanted(batch.version, entry) for entry in entries]

    async def _enqueue(
        self, version: Version, entries: list[Entry], through: dict[str, trio.Event]
    ) -> None:
        """Put small files into the queue; where that fails each is got, or fails, by itself."""
        left = set(through)
        try:
            missing = await self._queue.prepare(version, entries)
            self._queue.add(*(_job(version, one, through[one.blob.key]) for one in missing))
            left -= {one.blob.key for one in missing}
        except WbfsError as error:
            log.info("files are not fetched many at a time: %s", error)
        finally:
            for key in left:
                through[key].set()

    async def _get(self, wanted: Wanted) -> None:
        await self._wait_for_queue(wanted)
        try:
            size, is_new = await self._deliver(wanted)
        except ReferenceMissing as error:
            if not self._allow_missing:
                raise
            log.warning("%s", error)
            self.tally.note_missing(wanted.entry)
        else:
            self.tally.note_got(wanted.entry, size, was_right=not is_new)

    async def _deliver(self, wanted: Wanted) -> tuple[int, bool]:
        """Bring a file to where it belongs; return its size, and whether it was not there yet."""
        following = self._delivery.follow(wanted)
        try:
            if following is not None:
                fd = await following.ensure(self._fetcher)
            else:
                fd = await self._fetcher.ensure(wanted.version, wanted.entry)
        except StoreError as error:
            return await self._delivery.put_past_cache(wanted, error), True
        try:
            return os.fstat(fd).st_size, await self._delivery.put(wanted, fd, following)
        finally:
            os.close(fd)

    async def _wait_for_queue(self, wanted: Wanted) -> None:
        """Wait until the queue is through with a file, for as long as it is through with any."""
        counters = self._resources.counters
        key = wanted.entry.blob.key
        # Others of the same content wait for it as well.
        through = self._through.get(key)
        wait_s = stretched(self._resources.timeout_s, wanted.entry.size) + SLACK_S
        before = -1
        while through is not None and not through.is_set() and not self._queue_is_stuck:
            now = counters.prefetched_files + counters.failed_prefetches
            if now == before:
                self._queue_is_stuck = True
                self._queue.clear()
                log.warning(
                    "%s: nothing came of it for %.0f s while it was fetched with others; each file"
                    " is fetched by itself from now on",
                    wanted.path,
                    wait_s,
                )
                return
            before = now
            with trio.move_on_after(wait_s):
                await through.wait()
        self._through.pop(key, None)

    def _fail(self, entries: Sequence[Entry], error: WbfsError) -> None:
        for entry in entries:
            self.tally.note_failed(entry, error)
        if self.tally.gave_up is not None:
            self._stop()

    def _stop(self) -> None:
        """End all that is under way."""
        self._scope.cancel()
        for works in (self._looks, self._questions, self._small, self._large):
            works.cancel()
        self._queue.clear()


def _job(version: Version, entry: Entry, through: trio.Event) -> Job:
    def done(outcome: Outcome, error: WbfsError | None) -> None:
        # Whether it came, and why not, whoever is to deliver it finds out.
        through.set()

    return Job(Wanted(version, entry), done, is_unread=False)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Files of one version, by their numbers in its table."""

    version: Version
    numbers: array[int]


class _ToGet:
    """The files that are to be got, in the order in which they were found."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._changed = trio.Event()
        self.has_ended = False

    def add(self, version: Version, numbers: Sequence[int]) -> None:
        """Add files of a version, few at a time."""
        last = self._batches[-1] if self._batches else None
        if last and last.version is version and len(last.numbers) + len(numbers) <= BATCH:
            last.numbers.extend(numbers)
        elif numbers:
            self._batches.append(_Batch(version, array("Q", numbers)))
        self._changed.set()

    def end(self) -> None:
        """Note that no more are found."""
        self.has_ended = True
        self._changed.set()

    async def has_more(self) -> bool:
        """Wait until there are some, or there will be none."""
        while not self._batches and not self.has_ended:
            self._changed = trio.Event()
            await self._changed.wait()
        return bool(self._batches)

    def take(self) -> _Batch | None:
        """Return the next ones, None where none were found yet."""
        return self._batches.popleft() if self._batches else None


class _AtOnce:
    """Pieces of the work, of which only so many are under way at the same time."""

    def __init__(
        self,
        background: Background,
        most: int,
        *,
        fail: Callable[[Sequence[Entry], WbfsError], None],
    ) -> None:
        """`fail` is told of the files of a piece that failed, be it by a defect, and why."""
        self._background = background
        self._fail = fail
        self._slots = trio.Semaphore(most)
        self._works: set[Work[None]] = set()

    async def start(
        self, entries: Sequence[Entry], doing: str, piece: Callable[[], Awaitable[None]]
    ) -> None:
        """Start a piece that is about those files, as soon as it may run."""
        await self._slots.acquire()

        async def run() -> None:
            try:
                await piece()
            except WbfsError as error:
                self._fail(entries, error)
            except Exception as defect:  # noqa: BLE001 - it is noted
                self._fail(entries, self._background.defect(doing, defect))
            finally:
                self._works.discard(work)
                self._slots.release()

        work = self._background.spawn(run, name=doing)
        self._works.add(work)

    async def ended(self) -> None:
        """Wait until all of them have ended."""
        for work in list(self._works):
            await work.ended.wait()

    def cancel(self) -> None:
        """End all of them."""
        for work in self._works:
            work.cancel()

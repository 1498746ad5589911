"""A version's files written to a directory: which, what is there already, and several at a time.

The manifest is read a few hundred entries at a time; threads look what of them is in the directory
already; a fixed number of workers fetch the rest and write it. Trio thread, but for what runs in
`Offload`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from wbfs.fetch.ahead.queue import Job as PrefetchJob
from wbfs.fetch.bulk.many import LARGE_FILES_AT_ONCE, FileCounts, ManyFiles
from wbfs.fetch.bulk.slices import Slice, Slices
from wbfs.fetch.bulk.target import Target, TargetError, TargetFolder, TargetFull
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.offload import Kind, Offload, checkpoint
from wbfs.fetch.small.whole import is_large
from wbfs.fetch.wanted import Wanted
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import ReferenceMissing, WbfsError

log = logging.getLogger(__name__)

FILES_AT_ONCE = 32
"""Files that are fetched and written at the same time."""
SURVEYS_AT_ONCE = 4
"""Threads that look at what is there already."""


@dataclass(slots=True)
class Tally(FileCounts):
    """How far a download is.

    A file is either `right` (left alone), `written`, `missing` (a reference's object, where that is
    allowed) or `failed`.
    """

    right: int = 0
    written: int = 0
    missing: int = 0

    @property
    def done(self) -> int:
        """The files that nothing more happens to."""
        return self.right + self.written + self.missing + self.failed


class Download(ManyFiles):
    """One version, or what a prefix of its paths picks, written to one directory."""

    def __init__(
        self,
        *,
        fetcher: Fetcher,
        offload: Offload,
        version: Version,
        path_prefix: str,
        target: Target,
        allow_missing_references: bool,
    ) -> None:
        """Take the entries whose whole path starts with `path_prefix`.

        With `allow_missing_references` a reference whose object is gone is no failure.
        """
        super().__init__(fetcher.counters, full=TargetFull)
        self.tally: Tally = Tally()
        self._fetcher = fetcher
        self._offload = offload
        self._version = version
        self._path_prefix = path_prefix
        self._target = target
        self._allow_missing = allow_missing_references
        self._large = trio.CapacityLimiter(LARGE_FILES_AT_ONCE)
        self._is_cancelled = False

    async def run(self) -> None:
        """Write all files, but for those that fail; `tally` and `gave_up` say of those.

        Raises WbfsError where there is no manifest, or no directory to write to. Without anything
        to write no directory is made.
        """
        slices = self._slices()
        first = await slices.next()
        await self._note_left_out()
        if first is None:
            self.tally.is_counted = True
            return
        await self._offload.run(Kind.DISK, self._target.open)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._note_cancellation, name="note a cancellation")
                await self._run_tasks(first, slices)
                nursery.cancel_scope.cancel()

    async def _note_cancellation(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._is_cancelled = True

    async def _note_left_out(self) -> None:
        left_out = (await self._fetcher.manifest(self._version)).left_out
        named = [(path, why) for path, why in left_out.report if path.startswith(self._path_prefix)]
        # Of those without a name nobody knows whether they are meant.
        unnamed = left_out.count - len(left_out.report)
        for path, why in named:
            self._fail(path, f"{why}, so that it can't be written")
        self.tally.failed += unnamed
        self.tally.files += len(named) + unnamed

    async def _run_tasks(self, first: Slice, slices: Slices) -> None:
        slices_in, slices_out = trio.open_memory_channel[Slice](0)
        jobs_in, jobs_out = trio.open_memory_channel[_Job](FILES_AT_ONCE)
        async with trio.open_nursery() as nursery, slices_out, jobs_in, jobs_out:
            nursery.start_soon(self._count, name="count the files")
            for _ in range(SURVEYS_AT_ONCE):
                nursery.start_soon(
                    self._survey, slices_out.clone(), jobs_in.clone(), name="look what is there"
                )
            for _ in range(FILES_AT_ONCE):
                nursery.start_soon(self._work, jobs_out.clone(), name="download files")
            async with slices_in:
                piece: Slice | None = first
                while piece is not None:
                    await slices_in.send(piece)
                    piece = await slices.next()

    def _slices(self) -> Slices:
        return Slices(partial(self._fetcher.manifest, self._version), self._path_prefix)

    async def _count(self) -> None:
        slices = self._slices()
        while (piece := await slices.next()) is not None:
            self.tally.files += len(piece.entries)
            self.tally.bytes += piece.size
        self.tally.is_counted = True

    async def _survey(
        self,
        slices: trio.MemoryReceiveChannel[Slice],
        jobs: trio.MemorySendChannel[_Job],
    ) -> None:
        async with slices, jobs:
            async for piece in slices:
                found = await self._offload.run(Kind.DISK, partial(_survey, piece, self._target))
                for entry in found.right:
                    self.tally.right += 1
                    self.tally.done_bytes += entry.size or 0
                for entry, error in found.failures:
                    self._fail(entry.path, str(error))
                    self.tally.done_bytes += entry.size or 0
                await self._fetch_ahead([job.entry for job in found.jobs])
                for job in found.jobs:
                    await jobs.send(job)

    async def _fetch_ahead(self, entries: list[Entry]) -> None:
        """Have small files fetched while others are written."""
        prefetch = self._fetcher.prefetch
        small = [entry for entry in entries if entry.size and not is_large(entry)]
        try:
            missing = await prefetch.prepare(self._version, small)
        except WbfsError as error:
            # Whoever writes them finds out whether that lasts, and says so of each file.
            log.info("nothing is fetched ahead: %s", error)
            return
        prefetch.add(*(PrefetchJob(Wanted(self._version, entry)) for entry in missing))

    async def _work(self, jobs: trio.MemoryReceiveChannel[_Job]) -> None:
        async with jobs:
            async for job in jobs:
                await self._download(job)

    async def _download(self, job: _Job) -> None:
        entry = job.entry
        await self._fetcher.prefetch.settled(entry.blob.key)
        try:
            if is_large(entry):
                async with self._large:
                    fd = await self._fetcher.ensure(self._version, entry)
            else:
                fd = await self._fetcher.ensure(self._version, entry)
            try:
                self._failures_in_a_row = 0
                await self._write(job, fd)
            finally:
                os.close(fd)
        except ReferenceMissing as error:
            if self._allow_missing:
                log.warning("%s", error)
                self.tally.missing += 1
            else:
                self._fail(entry.path, str(error))
        except WbfsError as error:
            self._fail(entry.path, str(error))
            self._give_up_if_futile(entry, error)
        self._settle_bytes(entry.size or 0)

    async def _write(self, job: _Job, fd: int) -> None:
        # Until the thread has tidied up: one that was left behind would leave its file behind.
        with trio.CancelScope(shield=True):
            try:
                changed = await self._offload.run(Kind.DISK, lambda: job.write(fd, self._go_on))
            except _Cancelled:
                return
        if changed:
            self.tally.written += 1
        else:
            self.tally.right += 1
        if job.entry.size is None:
            size = os.fstat(fd).st_size
            self.tally.bytes += size
            self._settle_bytes(size)

    def _go_on(self) -> None:
        if self._is_cancelled:
            raise _Cancelled


class _Cancelled(Exception):
    """Nobody waits for a copy any more."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A file to be fetched and written."""

    entry: Entry
    folder: TargetFolder

    def write(self, fd: int, go_on: Callable[[], None]) -> bool:
        """Write the file from its open blob; return False if it was right already."""
        go_on()
        name = self.entry.path.rpartition("/")[2]
        if self.entry.digest is None and self.folder.has_bytes_of(name, fd):
            return False
        self.folder.write(name, fd, checkpoint=go_on)
        return True


@dataclass(slots=True)
class _Found:
    """What is there of a slice: the files that are right, to be written, and in nobody's power."""

    right: list[Entry] = field(default_factory=list)
    jobs: list[_Job] = field(default_factory=list)
    failures: list[tuple[Entry, TargetError]] = field(default_factory=list)


def _survey(piece: Slice, target: Target) -> _Found:
    """Look, in a thread, which of a slice the target has."""
    found = _Found()
    try:
        folder = target.folder(piece.folder)
    except TargetError as error:
        found.failures = [(entry, error) for entry in piece.entries]
        return found
    for entry in piece.entries:
        name = entry.path.rpartition("/")[2]
        try:
            if folder.is_right(name, entry.blob, checkpoint=checkpoint):
                found.right.append(entry)
            else:
                found.jobs.append(_Job(entry, folder))
        except TargetError as error:
            found.failures.append((entry, error))
    return found

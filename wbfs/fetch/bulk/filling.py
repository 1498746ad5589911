"""Files that somebody named, fetched into the cache before they are read.

First all of them are looked for, so that it is known how many bytes are to come; then those that
are not here are fetched: small ones by the queue of `Prefetch`, with URLs asked for many at a time,
the others a few at once. Trio thread, but for what runs in `Offload`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from wbfs.fetch.ahead.loaders import BACKLOG, BATCH
from wbfs.fetch.ahead.queue import Job as QueuedJob
from wbfs.fetch.ahead.queue import Outcome
from wbfs.fetch.bulk.many import LARGE_FILES_AT_ONCE, FileCounts, ManyFiles
from wbfs.fetch.bulk.slices import Slice, Slices
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.offload import Kind
from wbfs.fetch.resources import Resources
from wbfs.fetch.small.whole import is_large
from wbfs.fetch.wanted import Wanted
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import (
    NotFound,
    StoreError,
    StoreFull,
    UrlExpired,
    WbfsError,
)
from wbfs.remote.transport import Deadline
from wbfs.store.manifests import ROOT_FOLDER
from wbfs.store.room import Shortage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """A file of a version, or all below a folder whose path starts with `path_prefix` too.

    An empty `path` is the whole version.
    """

    version: Version
    path: str
    path_prefix: str = ""


@dataclass(slots=True)
class FillTally(FileCounts):
    """How far it is.

    A file is either `here` (before it was its turn), `fetched` or `failed`. `to_fetch` and
    `to_fetch_bytes` are what was missing when it was counted.
    """

    to_fetch: int = 0
    to_fetch_bytes: int = 0
    here: int = 0
    fetched: int = 0

    @property
    def done(self) -> int:
        """The files that nothing more happens to."""
        return self.here + self.fetched + self.failed


@dataclass(slots=True)
class _Survey:
    """What of some files the store has, in bytes on its disk, and what it hasn't."""

    held: int = 0
    missing: int = 0
    missing_files: int = 0
    missing_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    """A file that is fetched with others going on; `is_here` where it is only to be checked."""

    wanted: Wanted
    is_here: bool


class _OneFile:
    """What `Slices` is for a folder: the slices of a single file."""

    def __init__(self, entry: Entry) -> None:
        self._slice: Slice | None = Slice(entry.path[: entry.path.rfind("/") + 1], [entry])

    async def next(self) -> Slice | None:
        """Return the file at first, then None."""
        piece, self._slice = self._slice, None
        return piece


class Filling(ManyFiles):
    """Some files of some versions."""

    def __init__(
        self, *, fetcher: Fetcher, resources: Resources, selections: Sequence[Selection]
    ) -> None:
        """Nothing is looked for yet."""
        super().__init__(resources.counters, full=StoreFull)
        self.tally: FillTally = FillTally()
        self._fetcher = fetcher
        self._resources = resources
        self._by_version: dict[str, list[Selection]] = {}
        for selection in selections:
            self._by_version.setdefault(selection.version.id, []).append(selection)
        # Files that are on their way, by their content's key.
        self._under_way: dict[str, list[Entry]] = {}
        self._settled = trio.Event()
        # Files whose URLs had expired, to be asked for once more, and what has been: keys.
        self._again: list[Entry] = []
        self._expired: set[str] = set()

    async def count(self) -> Shortage | None:
        """Look what of the files is here, and make room for the rest; say if there can't be.

        Raises WbfsError: NotFound where a version has no such file or folder.
        """
        seen: set[str] = set()
        total = _Survey()
        for selections in self._by_version.values():
            for selection in selections:
                slices = await self._slices(selection)
                while (piece := await slices.next()) is not None:
                    self.tally.files += len(piece.entries)
                    self.tally.bytes += piece.size
                    new = {entry.blob.key: entry for entry in piece.entries if entry.size != 0}
                    entries = [entry for key, entry in new.items() if key not in seen]
                    seen.update(new)
                    found = await self._resources.offload.run(
                        Kind.DISK, partial(self._survey, entries)
                    )
                    total.held += found.held
                    total.missing += found.missing
                    self.tally.to_fetch += found.missing_files
                    self.tally.to_fetch_bytes += found.missing_bytes
        self.tally.is_counted = True
        return await self._resources.offload.run(
            Kind.DISK, lambda: self._resources.room.make_beside(total.held, total.missing)
        )

    def _survey(self, entries: list[Entry]) -> _Survey:
        blobs, partial_blobs = self._resources.blobs, self._resources.partial
        found = _Survey()
        for entry in entries:
            # What is meant is not what makes room for the rest.
            blobs.use(entry.blob)
            held = blobs.size_of(entry.blob)
            if held is None:
                size = entry.size or 0
                found.missing_files += 1
                found.missing_bytes += size
                held = partial_blobs.size_of(entry.blob) if is_large(entry) else 0
                found.missing += max(0, blobs.rounded(size) - held)
            found.held += held
        return found

    async def run(self) -> None:
        """Fetch what is not here, but for what fails: `tally` and `gave_up` say of that."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                jobs_in, jobs_out = trio.open_memory_channel[_Job](0)
                async with jobs_in, jobs_out:
                    for _ in range(LARGE_FILES_AT_ONCE):
                        nursery.start_soon(self._work, jobs_out.clone(), name="fetch a file")
                    try:
                        for selections in self._by_version.values():
                            await self._fill(selections, jobs_in)
                    except WbfsError as error:
                        self._give_up(error)
        self._fetcher.prefetch.clear()
        try:
            # A mount would have to check what isn't safely on disk yet.
            await self._resources.offload.run(Kind.CHECK, self._resources.blobs.flush)
        except StoreError as error:
            log.warning("%s", error)

    async def _fill(self, selections: list[Selection], jobs: trio.MemorySendChannel[_Job]) -> None:
        """Have all of one version's files fetched, and wait until they are."""
        version = selections[0].version
        small: list[Entry] = []
        for selection in selections:
            slices = await self._slices(selection)
            while (piece := await slices.next()) is not None:
                for entry, is_here in await self._to_ensure(piece):
                    if not self._is_first(entry):
                        continue
                    if is_here or entry.size is None or is_large(entry):
                        await jobs.send(_Job(Wanted(version, entry), is_here))
                        continue
                    small.append(entry)
                    if len(small) >= BATCH:
                        await self._enqueue(version, small)
                        small = []
        await self._enqueue(version, small)
        while self._under_way:
            await self._wait()
            await self._enqueue(version, [])

    async def _slices(self, selection: Selection) -> Slices | _OneFile:
        """Return what is selected. Raises NotFound, WbfsError."""
        version, path = selection.version, selection.path
        table = await self._fetcher.manifest(version)
        entry = table.entry(path)
        if entry is not None:
            return _OneFile(entry)
        number = ROOT_FOLDER
        for name in path.split("/") if path else ():
            folder = table.folder_by_name(number, name)
            if folder is None:
                raise NotFound(f"{version.path} has no file or folder {path!r}: check the spelling")
            number = folder.id
        folder_prefix = f"{path}/" if path else ""
        # One goes on where the other ends: a mount shows no other folder.
        prefix = max(folder_prefix, selection.path_prefix, key=len)
        return Slices(partial(self._fetcher.manifest, version), prefix)

    async def _to_ensure(self, piece: Slice) -> list[tuple[Entry, bool]]:
        """Return the files that are to be fetched, or are here and to be checked: which it is.

        The others are marked as used.
        """
        blobs = self._resources.blobs

        def look() -> list[tuple[Entry, bool]]:
            return [
                (entry, blobs.has_unchecked(entry.blob))
                for entry in piece.entries
                # An empty file is never asked for.
                if entry.size != 0 and blobs.open(entry.blob) is None
            ]

        found = await self._resources.offload.run(Kind.DISK, look)
        self.tally.here += len(piece.entries) - len(found)
        self.tally.done_bytes += piece.size - sum(entry.size or 0 for entry, _ in found)
        return found

    def _is_first(self, entry: Entry) -> bool:
        """Note that a file is wanted; return whether no other of its content is on its way."""
        entries = self._under_way.setdefault(entry.blob.key, [])
        entries.append(entry)
        return len(entries) == 1

    async def _enqueue(self, version: Version, entries: list[Entry]) -> None:
        while self._fetcher.prefetch.backlog >= BACKLOG:
            await self._wait()
        entries, self._again = [*self._again, *entries], []
        if not entries:
            return
        resources = self._resources
        try:
            await resources.offload.run(
                Kind.METADATA,
                lambda: resources.sources.prepare(
                    version, entries, deadline=Deadline.after(resources.timeout_s)
                ),
            )
        except WbfsError as error:
            # Of a version that can't be asked for, rather than of these files.
            self._give_up(error)
            return
        self._fetcher.prefetch.add(
            *(
                QueuedJob(
                    Wanted(version, entry), partial(self._note_outcome, entry), is_unread=False
                )
                for entry in entries
            )
        )

    def _note_outcome(self, entry: Entry, outcome: Outcome, error: WbfsError | None) -> None:
        if outcome is Outcome.LEFT:
            return
        if isinstance(error, UrlExpired) and entry.blob.key not in self._expired:
            # It waited too long in the queue.
            self._expired.add(entry.blob.key)
            self._again.append(entry)
            self._settled.set()
            return
        self._settle(entry, error)

    async def _work(self, jobs: trio.MemoryReceiveChannel[_Job]) -> None:
        async with jobs:
            async for job in jobs:
                wanted = job.wanted
                try:
                    fd = await self._fetcher.ensure(wanted.version, wanted.entry)
                except WbfsError as error:
                    self._settle(wanted.entry, error)
                else:
                    size = os.fstat(fd).st_size
                    os.close(fd)
                    self._settle(wanted.entry, None, size=size, is_here=job.is_here)

    async def _wait(self) -> None:
        """Wait until one more file is settled."""
        self._settled = trio.Event()
        await self._settled.wait()

    def _settle(
        self,
        entry: Entry,
        error: WbfsError | None,
        *,
        size: int | None = None,
        is_here: bool = False,
    ) -> None:
        """Note what became of a file, and of the others of the same content.

        `size` is what it turned out to have, `is_here` that it needed no fetching.
        """
        entries = self._under_way.pop(entry.blob.key)
        tally = self.tally
        if error is None:
            tally.fetched += not is_here
            tally.here += len(entries) - (not is_here)
            self._failures_in_a_row = 0
        else:
            for one in entries:
                self._fail(one.path, str(error))
            self._give_up_if_futile(entries[0], error)
        known = sum(entry.size or 0 for entry in entries)
        if entry.size is None and size is not None:
            known = size
            tally.bytes += size
        self._settle_bytes(known)
        self._settled.set()

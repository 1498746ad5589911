"""Files that somebody named, fetched into the cache before they are read.

First all of them are looked for, so that it is known how many bytes are to come; then those that
are not here are fetched: small ones by the queue of `Prefetch`, with URLs asked for many at a time,
the others a few at once. Trio thread, but for what runs in `Offload`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from wbfs.fetch.download import FAILURES_IN_A_ROW, FAILURES_NAMED, LARGE_FILES_AT_ONCE
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.loaders import BACKLOG, BATCH
from wbfs.fetch.offload import Kind
from wbfs.fetch.origin import Origin
from wbfs.fetch.prefetch import Job as QueuedJob
from wbfs.fetch.prefetch import Outcome, Prefetch
from wbfs.fetch.resources import Resources
from wbfs.fetch.room import Shortage
from wbfs.fetch.slices import Slice, Slices
from wbfs.fetch.whole import is_large
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import (
    AccessDenied,
    NotFound,
    RemoteError,
    StoreError,
    StoreFull,
    UrlExpired,
    WbfsError,
)
from wbfs.remote.bytes import ObjectMissing
from wbfs.remote.transport import Deadline
from wbfs.store.manifests import ROOT_FOLDER

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
class FillTally:
    """How far it is. Sizes in bytes; `files` and `bytes` grow until they are counted.

    A file is either `here` (before it was its turn), `fetched` or `failed`. `errors` says why, of
    the first of them. `to_fetch` and `to_fetch_bytes` are what was missing when it was counted.
    """

    files: int = 0
    bytes: int = 0
    is_counted: bool = False
    to_fetch: int = 0
    to_fetch_bytes: int = 0
    done_bytes: int = 0
    here: int = 0
    fetched: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)

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

    origin: Origin
    is_here: bool


class _OneFile:
    """What `Slices` is for a folder: the slices of a single file."""

    def __init__(self, entry: Entry) -> None:
        self._slice: Slice | None = Slice(entry.path[: entry.path.rfind("/") + 1], [entry])

    async def next(self) -> Slice | None:
        """Return the file at first, then None."""
        piece, self._slice = self._slice, None
        return piece


class Filling:
    """Some files of some versions."""

    def __init__(
        self, *, fetcher: Fetcher, resources: Resources, selections: Sequence[Selection]
    ) -> None:
        """Nothing is looked for yet."""
        self._fetcher = fetcher
        self._resources = resources
        self._by_version: dict[str, list[Selection]] = {}
        for selection in selections:
            self._by_version.setdefault(selection.version.id, []).append(selection)
        self._queue = Prefetch(resources)
        # Files that are on their way, by their content's key.
        self._under_way: dict[str, list[Entry]] = {}
        self._settled = trio.Event()
        # Files whose URLs had expired, to be asked for once more, and what has been: keys.
        self._again: list[Entry] = []
        self._expired: set[str] = set()
        self._failures_in_a_row = 0
        self._fetched_of_done = 0
        self._fetched_before = 0
        self._scope = trio.CancelScope()
        self.tally = FillTally()
        self.gave_up: WbfsError | None = None

    @property
    def fetched_bytes(self) -> int:
        """What has come over the network so far."""
        return self._resources.counters.fetched_bytes - self._fetched_before

    @property
    def position(self) -> int:
        """The bytes of files that are done, and of those under way what has come of them."""
        under_way = self.fetched_bytes - self._fetched_of_done
        return min(self.tally.done_bytes + under_way, self.tally.bytes)

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
        return await self._resources.room.make_beside(total.held, total.missing)

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
        self._fetched_before = self._resources.counters.fetched_bytes
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
        self._queue.clear()
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
                        await jobs.send(_Job(Origin(version, entry), is_here))
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
        while self._queue.backlog >= BACKLOG:
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
        self._queue.add(
            *(
                QueuedJob(
                    Origin(version, entry), partial(self._note_outcome, entry), is_unread=False
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
                origin = job.origin
                try:
                    fd = await self._fetcher.ensure(origin.version, origin.entry)
                except WbfsError as error:
                    self._settle(origin.entry, error)
                else:
                    size = os.fstat(fd).st_size
                    os.close(fd)
                    self._settle(origin.entry, None, size=size, is_here=job.is_here)
                # The queue gives way to these.
                self._queue.go_on()

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
            tally.failed += len(entries)
            self._note_failure(entries, error)
        known = sum(entry.size or 0 for entry in entries)
        if entry.size is None and size is not None:
            known = size
            tally.bytes += size
        tally.done_bytes += known
        self._fetched_of_done = min(self._fetched_of_done + known, self.fetched_bytes)
        self._settled.set()

    def _note_failure(self, entries: list[Entry], error: WbfsError) -> None:
        reason = str(error)
        for entry in entries[: FAILURES_NAMED - len(self.tally.errors)]:
            named = entry.path in reason
            self.tally.errors.append(reason if named else f"{entry.path}: {reason}")
        if isinstance(error, AccessDenied | RemoteError) and not isinstance(error, ObjectMissing):
            # What other servers say of their references tells nothing of W&B's.
            self._failures_in_a_row += entries[0].reference is None
        if isinstance(error, StoreFull) or self._failures_in_a_row >= FAILURES_IN_A_ROW:
            self._give_up(error)

    def _give_up(self, error: WbfsError) -> None:
        self.gave_up = error
        self._scope.cancel()

"""Programs that read a version's small files one after another: what they read next is prefetched.

`Neighbours` says what that is, and how much of it may be here before it is read; this asks for the
signed URLs of many files at a time, and keeps within what the cache has room for. Trio thread.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial

import trio

from wbfs.fetch.ahead.neighbours import SAMPLE, Neighbours, Run
from wbfs.fetch.ahead.queue import Job, Outcome, Prefetch
from wbfs.fetch.bulk.slices import Slices
from wbfs.fetch.resources import Resources
from wbfs.fetch.small.whole import is_large
from wbfs.fetch.wanted import Wanted
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import WbfsError
from wbfs.store.known.manifest_table import File, ManifestTable

log = logging.getLogger(__name__)

VERSIONS = 32
"""Versions whose reads are remembered."""
BATCH = 256
"""Files that are prepared at a time: one question for their URLs."""
BACKLOG = 128
"""Files in the queue below which more are prepared."""
RUN_BATCH = 64
"""The same for a run, whose files are prepared a quarter of its window at a time."""
FAILURES_IN_A_ROW = 8
PAUSE_S = 10.0
"""Seconds for which nothing more is prefetched after so many failures."""


class Was(Enum):
    """Where a file was when it was read for the first time."""

    HERE = auto()
    PREFETCHED = auto()
    MISSING = auto()


@dataclass(slots=True, eq=False)
class _Loader:
    """One version that is read from. `unread` and `planned` are bytes: here, and on their way."""

    version: Version
    neighbours: Neighbours = field(default_factory=Neighbours)
    unread: int = 0
    planned: int = 0
    sweep: Slices | None = None
    swept: str = ""
    rest: list[Entry] = field(default_factory=list)
    misses_since_sweep: int = 0
    failures: int = 0
    paused_until: float = 0.0
    is_planned_for: bool = False

    @property
    def why(self) -> str:
        """What is seen of the programs, in words."""
        read = f"{self.neighbours.read_files} files were read"
        if self.neighbours.is_random:
            return f"{read}, the latest in random order"
        return f"{read}, the latest one after another"


class Loaders:
    """The versions that are read from in one session."""

    def __init__(
        self,
        resources: Resources,
        prefetch: Prefetch,
        *,
        manifest: Callable[[Version], Awaitable[ManifestTable]],
        path_prefix: str,
    ) -> None:
        """Prefetch of each version only the files whose path starts with `path_prefix`."""
        self._resources = resources
        self._prefetch = prefetch
        self._manifest = manifest
        self._path_prefix = path_prefix
        self._loaders: OrderedDict[str, _Loader] = OrderedDict()

    def was_read(self, version: Version, file: File, was: Was) -> None:
        """Note that a small file was read whole."""
        loader = self._loader(version)
        loader.neighbours.note(file.id, file.folder, file.entry.size or 0)
        loader.misses_since_sweep += was is Was.MISSING
        if was is not Was.HERE:
            self._plan_soon(loader)

    def was_used(self, version: Version, entry: Entry) -> None:
        """Note that a file is opened for the first time that was prefetched."""
        counters = self._resources.counters
        counters.used_files += 1
        counters.used_bytes += entry.size or 0
        loader = self._loader(version)
        loader.unread = max(0, loader.unread - (entry.size or 0))

    def report(self) -> list[dict[str, object]]:
        """Return what is being prefetched, and why, for people to read."""
        return [
            {
                "version": loader.version.path,
                "folder": loader.swept,
                "why": loader.why,
                "on_their_way_bytes": loader.planned,
                "unread_bytes": loader.unread,
                "allowed_bytes": loader.neighbours.credit,
            }
            for loader in self._loaders.values()
            if loader.planned or loader.unread
        ]

    def _loader(self, version: Version) -> _Loader:
        loader = self._loaders.pop(version.id, None) or _Loader(version)
        self._loaders[version.id] = loader
        while len(self._loaders) > VERSIONS:
            self._loaders.popitem(last=False)
        return loader

    def _plan_soon(self, loader: _Loader) -> None:
        if loader.is_planned_for or not self._has_more(loader):
            return
        loader.is_planned_for = True
        self._resources.background.spawn(lambda: self._plan(loader), name="plan what to prefetch")

    def _has_more(self, loader: _Loader) -> bool:
        """Whether there may be files to prefetch now."""
        if self._prefetch.backlog >= BACKLOG or trio.current_time() < loader.paused_until:
            return False
        if loader.neighbours.is_random:
            if loader.sweep is None and loader.misses_since_sweep < SAMPLE:
                # It was swept already: a few files may have been evicted since.
                return False
        elif not any(_is_due(run, count) for run, count in loader.neighbours.runs()):
            return False
        return self._allowed(loader) > 0

    def _allowed(self, loader: _Loader) -> int:
        """Return how many more bytes may be on their way to a loader."""
        # Half of what there is room for, with what nobody has read yet: it would go first.
        room = (self._resources.room.left + loader.unread) // 2
        return min(loader.neighbours.credit, room) - loader.unread - loader.planned

    async def _plan(self, loader: _Loader) -> None:
        try:
            while self._has_more(loader) and await self._plan_some(loader):
                pass
        except WbfsError as error:
            log.info("%s: nothing more is prefetched for now: %s", loader.version.path, error)
            self._pause(loader)
        except Exception:
            self._pause(loader)
            raise
        finally:
            loader.is_planned_for = False

    async def _plan_some(self, loader: _Loader) -> bool:
        """Put the next files into the queue; return whether there were any to look at."""
        if loader.neighbours.is_random:
            entries = await self._next_of_sweep(loader)
        else:
            entries = await self._next_of_runs(loader)
        if entries:
            missing = await self._prefetch.prepare(loader.version, entries)
            self._prefetch.add(*(self._job(loader, entry) for entry in missing))
        return bool(entries)

    def _job(self, loader: _Loader, entry: Entry) -> Job:
        size = entry.size or 0

        def done(outcome: Outcome, _: WbfsError | None) -> None:
            loader.planned -= size
            if outcome is Outcome.FETCHED:
                loader.failures = 0
                loader.unread += size
            elif outcome is Outcome.FAILED:
                self._note_failure(loader)
            self._plan_soon(loader)

        loader.planned += size
        return Job(Wanted(loader.version, entry), done)

    def _note_failure(self, loader: _Loader) -> None:
        loader.failures += 1
        if loader.failures >= FAILURES_IN_A_ROW:
            self._pause(loader)

    def _pause(self, loader: _Loader) -> None:
        loader.failures = 0
        loader.paused_until = trio.current_time() + PAUSE_S
        self._prefetch.clear()

    async def _next_of_sweep(self, loader: _Loader) -> list[Entry]:
        """Return the next files of the folder that is read from in random order."""
        allowed = self._allowed(loader)
        if loader.sweep is None or not await self._covers_reads(loader):
            loader.swept = await self._common_folder(loader)
            loader.sweep = Slices(partial(self._manifest, loader.version), loader.swept)
            loader.rest = []
            loader.misses_since_sweep = 0
        entries: list[Entry] = []
        while len(entries) < BATCH:
            if not loader.rest:
                piece = await loader.sweep.next()
                if piece is None:
                    loader.sweep = None
                    loader.misses_since_sweep = 0
                    break
                loader.rest = [entry for entry in reversed(piece.entries) if self._is_meant(entry)]
                continue
            allowed -= loader.rest[-1].size or 0
            if allowed < 0:
                break
            entries.append(loader.rest.pop())
        return entries

    async def _covers_reads(self, loader: _Loader) -> bool:
        return (await self._common_folder(loader)).startswith(loader.swept)

    async def _common_folder(self, loader: _Loader) -> str:
        """Return the path of the folder that all latest reads were in, with a slash behind it."""
        table = await self._manifest(loader.version)
        paths = [table.folder_path(number) for number in loader.neighbours.folders]
        return "".join(f"{name}/" for name in os.path.commonprefix(paths))

    async def _next_of_runs(self, loader: _Loader) -> list[Entry]:
        """Return the files that follow those that were read one after another."""
        allowed = self._allowed(loader)
        table = await self._manifest(loader.version)
        entries: list[Entry] = []
        for run, count in loader.neighbours.runs():
            if not _is_due(run, count):
                continue
            first, last = run.ahead + 1, run.last + count
            for row in range(first, min(last, first + BATCH - len(entries) - 1) + 1):
                file = table.file(row)
                if file is None:
                    break
                if self._is_meant(file.entry):
                    allowed -= file.entry.size or 0
                    if allowed < 0:
                        return entries
                    entries.append(file.entry)
                run.ahead = row
        return entries

    def _is_meant(self, entry: Entry) -> bool:
        """Whether a file is small, and shown by this mount."""
        return bool(entry.size and not is_large(entry) and entry.path.startswith(self._path_prefix))


def _is_due(run: Run, count: int) -> bool:
    """Whether enough may be added ahead of a run, which may have `count` files ahead."""
    return run.last + count - run.ahead >= min(RUN_BATCH, (count + 3) // 4)

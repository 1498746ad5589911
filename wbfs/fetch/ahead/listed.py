"""Signed URLs of files in folders that were listed, asked for before the files are opened.

A program that lists folders and opens a file of them likely opens others, in whatever order, and
each file's own question would cost it a round trip. So while it waits for a URL, those of other
listed files are asked for beside it, in questions of their own. From then on a file costs one round
trip.

What that costs the server: who reads n files, all that were listed, asks n / `NAMES` questions, and
one for each file that was opened before its URL was there; none where that is in a question for few
files that is under way. Who lists many files and reads few asks, for each that has no URL, at most
`MOST_AT_ONCE` questions more; for the first one, one. No name is asked for twice while its URL is
good, nor a file's that is here, and of all that were asked for no more than `MOST_UNUSED` wait to
be used. Where no folder was listed nothing is asked for ahead. Trio thread, but for what runs in
`Offload`.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import trio

from wbfs.fetch.ahead.queue import Prefetch
from wbfs.fetch.resources import Resources
from wbfs.fetch.small.urls import LIFETIME_S, MOST_KEPT
from wbfs.fetch.work.offload import Kind
from wbfs.model.entries import Version
from wbfs.model.errors import WbfsError
from wbfs.model.extents import Extents
from wbfs.store.known.manifest_table import File, Folder

log = logging.getLogger(__name__)

NAMES = 1000
"""Files of one question: as many as the server gives in a page."""
MOST_AT_ONCE = 4
"""Questions that are under way at once: of the threads for them, half are left to readers."""
MOST_UNUSED = MOST_KEPT * 3 // 4
PAUSE_S = 10.0
"""Seconds for which nothing more is asked for after a question that failed."""
VERSIONS = 32
"""Versions whose listed folders are remembered."""


@dataclass(slots=True, eq=False)
class _Listed:
    """The listed files of one version by their rows, and those whose URLs were asked for.

    growth: how many questions the next file without a URL allows; due: how many are to come;
    unused: files that were asked for ahead and not read yet.
    """

    version: Version
    rows: Extents = field(default_factory=Extents)
    asked: Extents = field(default_factory=Extents)
    asked_since_s: float = -math.inf
    refused: int = 0
    growth: int = 1
    due: int = 0
    unused: int = 0
    paused_until_s: float = -math.inf

    def forget(self, now_s: float, refused: int) -> None:
        """Begin anew: what was asked for so far is good no more, or soon will be."""
        self.asked, self.asked_since_s, self.refused = Extents(), now_s, refused
        self.growth, self.due, self.unused = 1, 0, 0

    def take(self, row: int) -> list[tuple[int, int]]:
        """Return the extents of rows to be asked for next: from that row on, and round again."""
        taken: list[tuple[int, int]] = []
        left = NAMES
        for low, high in ((row, None), (0, row)):
            for start, stop in self.rows:
                last = stop if high is None else min(stop, high)
                for first, end in self.asked.missing(max(start, low), last):
                    end = min(end, first + left)
                    if first < end:
                        taken.append((first, end))
                        left -= end - first
        for start, stop in taken:
            self.asked.add(start, stop)
        self.unused += NAMES - left
        return taken


class ListedFolders:
    """The folders that were listed in one session; `under_way` counts questions."""

    def __init__(self, resources: Resources, prefetch: Prefetch, *, path_prefix: str) -> None:
        """Ask of each version only for files whose path starts with `path_prefix`."""
        self._resources = resources
        self._prefetch = prefetch
        self._path_prefix = path_prefix
        self._versions: OrderedDict[str, _Listed] = OrderedDict()
        self.under_way = 0

    def was_listed(self, version: Version, folder: Folder, path: str) -> None:
        """Note that a program lists a folder; `path` is the folder's in the artifact."""
        if not folder.file_count:
            return
        listed = self._versions.pop(version.id, None) or _Listed(version)
        self._versions[version.id] = listed
        while len(self._versions) > VERSIONS:
            self._versions.popitem(last=False)
        listed.rows.add(folder.first_file, folder.first_file + folder.file_count)
        self._resources.sources.was_listed(version, path)

    def is_wanted(self, version: Version, file: File) -> None:
        """Note that a program waits for a file that is not here."""
        listed = self._versions.get(version.id)
        if listed is None or file.entry.reference is not None:
            return
        sources, now_s = self._resources.sources, trio.current_time()
        if sources.origin(version, file.entry) is not None:
            listed.unused = max(0, listed.unused - 1)
            return
        if listed.rows.missing(file.id, file.id + 1) or now_s < listed.paused_until_s:
            return
        if listed.refused != sources.refused_urls or now_s > listed.asked_since_s + LIFETIME_S:
            listed.forget(now_s, sources.refused_urls)
        listed.asked.add(file.id, file.id + 1)
        listed.due += listed.growth
        listed.growth = min(2 * listed.growth, MOST_AT_ONCE)
        self._go_on(listed, file.id)

    def _go_on(self, listed: _Listed, row: int) -> None:
        while listed.due and self.under_way < MOST_AT_ONCE and self._unused <= MOST_UNUSED - NAMES:
            rows = listed.take(row)
            listed.due = listed.due - 1 if rows else 0
            if rows:
                self.under_way += 1
                ask = partial(self._ask, listed, row, rows)
                self._resources.background.spawn(ask, name="ask for URLs ahead")

    @property
    def _unused(self) -> int:
        return sum(listed.unused for listed in self._versions.values())

    async def _ask(self, listed: _Listed, row: int, rows: list[tuple[int, int]]) -> None:
        try:
            count = await self._resources.offload.run(
                Kind.URLS, partial(self._ask_here, listed.version, rows)
            )
        except WbfsError as error:
            log.info("%s: no URLs are asked for ahead: %s", listed.version.path, error)
            listed.forget(-math.inf, listed.refused)
            listed.paused_until_s = trio.current_time() + PAUSE_S
        else:
            taken = sum(stop - start for start, stop in rows)
            listed.unused = max(0, listed.unused - taken + count)
        finally:
            self.under_way -= 1
        self._go_on(listed, row)

    def _ask_here(self, version: Version, rows: list[tuple[int, int]]) -> int:
        """Ask for the URLs of W&B's own files in those rows, as far as the mount shows them.

        In a worker thread, with a table of its own: the trio thread would be held up for 10 ms.
        Return of how many files.
        """
        table = self._resources.sources.table(version)
        if table is None:
            return 0
        with closing(table):
            entries = [
                file.entry
                for start, stop in rows
                for file in table.files_between(start, stop)
                if file.entry.reference is None and file.entry.path.startswith(self._path_prefix)
            ]
        return len(self._prefetch.prepare_here(version, entries))

"""The large files that are open, and what is read ahead of their readers. Trio thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from wbfs.fetch.large.file import LargeFile, Opening
from wbfs.fetch.large.pages import UncheckedPages
from wbfs.fetch.large.planner import Plan
from wbfs.fetch.offload import THREADS, Kind
from wbfs.fetch.resources import Resources
from wbfs.fetch.wanted import Wanted

MOST_QUEUED = 4096
"""Extents that wait to be read ahead of readers; the oldest are dropped."""


class LargeFiles:
    """The large files of one session by content; a file is there while something uses it."""

    def __init__(
        self,
        resources: Resources,
        *,
        verify_always: bool,
        drop_pages: Callable[[frozenset[int]], None],
    ) -> None:
        """`drop_pages` has the kernel forget the pages of inodes whose bytes were wrong."""
        self._resources = resources
        self._verify_always = verify_always
        self._pages = UncheckedPages(drop_pages)
        # By size too: manifests are foreign, and two may give one content different sizes.
        self._files: dict[tuple[str, int], LargeFile] = {}
        self._flushing: set[LargeFile] = set()
        # How often the bytes of a content were wrong; 0 is left out.
        self._mismatches: dict[str, int] = {}
        self._queue: deque[tuple[LargeFile, Opening, int, int]] = deque(maxlen=MOST_QUEUED)

    def __len__(self) -> int:
        """How many requests are under way."""
        return sum(self._flights(ahead=ahead) for ahead in (False, True))

    def use(self, wanted: Wanted) -> LargeFile:
        """Return the file with the entry's content, in use until `release`. Raises StoreError."""
        key = wanted.entry.blob.key
        file = self._files.get((key, wanted.entry.size or 0))
        if file is None:
            file = self._files[key, wanted.entry.size or 0] = LargeFile(
                self._resources,
                self._pages,
                wanted,
                verify=self._verify_always or key in self._mismatches,
                mismatches=min(self._mismatches.get(key, 0), 1),
                on_landed=self._on_landed,
            )
            # An earlier daemon may have been killed before it was sealed.
            file.seal_if_whole(wanted)
        file.users += 1
        return file

    def release(self, file: LargeFile) -> None:
        """Let go of a file."""
        file.users -= 1
        if file.is_idle:
            self._on_landed(file)

    def open(self, wanted: Wanted, inode: int) -> OpenLargeFile:
        """Return what a handle reads with. Raises StoreError."""
        return OpenLargeFile(self, self.use(wanted), Opening(wanted, inode))

    def read_ahead(self, file: LargeFile, opening: Opening, plan: Plan) -> None:
        """Have the plan's extents fetched as soon as there is a connection for it."""
        self._queue.extend((file, opening, start, stop) for start, stop in plan.ahead)
        self._start_queued()

    def close(self) -> None:
        """Note what the open files hold: the session ends."""
        for file in self._files.values():
            file.save()

    def _flights(self, *, ahead: bool) -> int:
        return sum(file.flights(ahead=ahead) for file in self._files.values())

    def _start_queued(self) -> None:
        while self._queue and self._flights(ahead=True) < THREADS[Kind.AHEAD]:
            file, opening, start, stop = self._queue.popleft()
            if not opening.closed:
                file.read_ahead(opening, start, stop)

    def _on_landed(self, file: LargeFile) -> None:
        self._start_queued()
        if file.mismatches:
            self._mismatches[file.key] = file.mismatches
        if file.is_idle and file not in self._flushing:
            self._flushing.add(file)
            self._resources.background.spawn(lambda: self._flush(file), name=f"flush {file.key}")

    async def _flush(self, file: LargeFile) -> None:
        try:
            await file.flush()
        finally:
            self._flushing.discard(file)
        # Somebody may have opened it meanwhile.
        if file.is_idle and self._files.pop((file.key, file.size), None) is not None:
            file.close()


class OpenLargeFile:
    """One handle on a large file."""

    def __init__(self, files: LargeFiles, file: LargeFile, opening: Opening) -> None:
        self._files = files
        self._file = file
        self._opening = opening

    async def read(self, offset: int, size: int) -> memoryview:
        """Return exactly `size` bytes at `offset`, which the file must have. Raises WbfsError."""
        plan = self._file.runs.plan(offset, size)
        if plan.ahead:
            self._files.read_ahead(self._file, self._opening, plan)
        # The kernel may release the handle of a program that was killed while it still takes the
        # answer for its pages: the file must stay open until then.
        self._file.users += 1
        try:
            data = await self._file.read(self._opening, offset, size, plan)
        finally:
            self._files.release(self._file)
        self._file.runs.delivered(offset, size)
        return data

    def close(self) -> None:
        """Let go of the file, and of what was read ahead for this handle."""
        self._opening.closed = True
        self._file.stop_reading_ahead(self._opening)
        self._files.release(self._file)

"""The large files that are open, and what is read ahead of their readers. Trio thread."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import partial

from wbfs.fetch.large.content import LargeFile
from wbfs.fetch.large.flight import Opening
from wbfs.fetch.large.pages import PAST_STORE, UncheckedPages
from wbfs.fetch.large.planner import Plan
from wbfs.fetch.resources import Resources
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.offload import Kind, threads
from wbfs.model.entries import Blob

MOST_QUEUED = 4096
"""Extents at one server that wait to be read ahead of readers; the oldest are dropped."""
MOST_MISMATCHES = 10_000
"""Contents that are remembered to have been wrong."""


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
        self._files: dict[Blob, LargeFile] = {}
        self._closing: set[LargeFile] = set()
        # How often the bytes of a content were wrong; 0 is left out.
        self._mismatches: OrderedDict[str, int] = OrderedDict()
        # By the server that they are asked of, so that none waits for another's.
        self._queues: dict[str, deque[tuple[LargeFile, Opening, int, int]]] = {}

    def __len__(self) -> int:
        """How many requests are under way."""
        return sum(file.requests for file in self._files.values())

    def use(self, wanted: Wanted) -> LargeFile:
        """Return the file with the entry's content, in use until `release`."""
        blob = wanted.entry.blob
        file = self._files.get(blob)
        if file is None:
            file = self._files[blob] = LargeFile(
                self._resources,
                self._pages,
                blob,
                verify=self._verify_always or blob.key in self._mismatches,
                mismatches=min(self._mismatches.get(blob.key, 0), 1),
                on_change=self._on_change,
            )
            file.users += 1
            # An earlier daemon may have been killed before it was sealed.
            file.go_on(wanted)
        else:
            file.users += 1
        return file

    def release(self, file: LargeFile) -> None:
        """Let go of a file."""
        file.users -= 1
        if not file.users:
            file.stop_whole()
        if file.is_idle:
            self._on_change(file)

    def open(self, wanted: Wanted, inode: int) -> OpenLargeFile:
        """Return what a handle reads with."""
        return OpenLargeFile(self, self.use(wanted), Opening(wanted, inode))

    def keeps_pages(self, wanted: Wanted, inode: int, *, is_sealed: bool) -> bool:
        """Whether what the kernel has of an inode, which is being opened, may stay there.

        Not unchecked bytes of another generation than the one that is read now; `is_sealed` is one
        that was checked, of bytes that may be others.
        """
        generations = self._pages.of(inode)
        if not generations:
            return True
        if wanted.entry.blob in self._files or not is_sealed:
            file = self.use(wanted)
            generation = file.generation
            self.release(file)
            if generation != PAST_STORE and generations == {generation}:
                return True
        self._pages.forget(inode)
        return False

    def read_ahead(self, file: LargeFile, opening: Opening, plan: Plan) -> None:
        """Have the plan's extents fetched as soon as there is a connection for it."""
        queue = self._queues.setdefault(self._server(opening), deque(maxlen=MOST_QUEUED))
        queue.extend((file, opening, start, stop) for start, stop in plan.ahead)
        self._start_queued()

    def divide(self, file: LargeFile, opening: Opening, stop: int) -> None:
        """Have a file's index be read, which ends at `stop`; it stays in use meanwhile."""
        file.users += 1

        async def divide() -> None:
            try:
                await file.divide(opening, stop)
            finally:
                self.release(file)

        self._resources.background.spawn(divide, name=f"read the index of {opening.wanted.path}")

    def served(self, size: int) -> None:
        """Count bytes that a program got."""
        self._resources.counters.served_bytes += size

    def close(self) -> None:
        """Note what the open files hold: the session ends."""
        for file in self._files.values():
            file.save()

    def _server(self, opening: Opening) -> str:
        """Return the server that is read from; all whose signed URLs aren't known yet are one."""
        return self._resources.sources.origin(opening.wanted.version, opening.wanted.entry) or ""

    def _start_queued(self) -> None:
        if not self._queues:
            return
        under_way: Counter[str] = Counter()
        for file in self._files.values():
            for opening in file.read_ahead_for():
                under_way[self._server(opening)] += 1
        for server, queue in list(self._queues.items()):
            while queue and under_way[server] < threads(Kind.AHEAD):
                file, opening, start, stop = queue.popleft()
                if not opening.closed:
                    before = file.requests
                    file.read_ahead(opening, start, stop)
                    under_way[server] += file.requests - before
            if not queue:
                del self._queues[server]

    def _on_change(self, file: LargeFile) -> None:
        self._start_queued()
        if file.mismatches:
            self._mismatches[file.blob.key] = file.mismatches
            while len(self._mismatches) > MOST_MISMATCHES:
                self._mismatches.popitem(last=False)
        if file.is_idle and file not in self._closing:
            self._closing.add(file)
            self._resources.background.spawn(
                partial(self._close, file), name=f"write what is here of {file.blob.key} to disk"
            )

    async def _close(self, file: LargeFile) -> None:
        try:
            await file.flush()
        finally:
            self._closing.discard(file)
        # Somebody may have opened it meanwhile.
        if file.is_idle and self._files.pop(file.blob, None) is not None:
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
        if offset == 0 and (stop := self._file.index_stop(data)) is not None:
            self._files.divide(self._file, self._opening, stop)
        self._files.served(size)
        return data

    def close(self) -> None:
        """Let go of the file, and of what was read ahead for this handle."""
        self._opening.closed = True
        self._file.stop_reading_ahead(self._opening)
        self._files.release(self._file)

"""Reads files and manifests: from the store where it has them, from the network where not.

Trio thread; the network and slow disks are left to `Offload`.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio

from wbfs.fetch.ahead.listed import ListedFolders
from wbfs.fetch.ahead.loaders import Loaders, Was
from wbfs.fetch.ahead.queue import Prefetch
from wbfs.fetch.journal import Journal
from wbfs.fetch.large.content import LargeFile
from wbfs.fetch.large.files import LargeFiles, OpenLargeFile
from wbfs.fetch.resources import Resources
from wbfs.fetch.sizes import Sizes
from wbfs.fetch.small.whole import LARGEST_WHOLE, WholeFiles, is_large, is_sized_by_reading
from wbfs.fetch.transfer import stretched
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.flights import Flights
from wbfs.fetch.work.offload import Kind
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import BadHandle, ReferenceChanged, StaleInode, StoreError, WbfsError
from wbfs.remote.http.transport import Deadline
from wbfs.store.content.sealed import SealedBlob
from wbfs.store.known.manifest_table import File, ManifestTable

log = logging.getLogger(__name__)

OPEN_MANIFESTS = 128
"""Manifest tables kept open; the rest are opened again from the store when they are asked for."""
MANIFEST_TRIES = 3
"""Times that a table is opened for one request, should it be among the first to be closed."""
OPEN_WAIT_S = 5.0
"""Seconds that `open` waits for a file whose size is known once it is here."""
FAILURE_MEMORY_S = 2.0
"""Seconds that a handle repeats its last error: after a read-ahead that failed, the kernel asks
again for the very page that the program wants."""


class Fetcher:
    """The fetches of one session."""

    def __init__(
        self,
        resources: Resources,
        *,
        verify_always: bool,
        path_prefix: str,
        drop_pages: Callable[[frozenset[int]], None],
    ) -> None:
        """With `verify_always` no byte of any file is served before its digest was checked.

        Nothing is prefetched but files whose path starts with `path_prefix`. `drop_pages` has the
        kernel forget the pages of inodes whose bytes were wrong, and what it was told of them.
        """
        self._resources = resources
        self._drop_pages = drop_pages
        self._manifests: OrderedDict[str, ManifestTable] = OrderedDict()
        # Those of all tables that inode numbers were made of.
        self._fingerprints: dict[str, bytes] = {}
        self._manifest_flights: Flights[None] = Flights(resources.background)
        self._checks: Flights[SealedBlob | None] = Flights(resources.background)
        self.prefetch = Prefetch(resources)
        self._whole = WholeFiles(resources, self.prefetch)
        self.sizes = Sizes(resources, self._whole)
        self.loaders = Loaders(
            resources, self.prefetch, manifest=self.manifest, path_prefix=path_prefix
        )
        self.listed = ListedFolders(resources, self.prefetch, path_prefix=path_prefix)
        self.large = LargeFiles(resources, verify_always=verify_always, drop_pages=drop_pages)
        self.counters = resources.counters

    @property
    def journal(self) -> Journal:
        """What is being fetched, and how the last fetches went."""
        return self._resources.journal

    @property
    def fetching(self) -> int:
        """How many requests for file bytes are under way."""
        return len(self._whole) + len(self.large) + self.prefetch.in_progress

    async def manifest(self, version: Version) -> ManifestTable:
        """Return the version's table, to be used before the next await. Raises WbfsError."""
        timeout_s = self._resources.timeout_s
        for _ in range(MANIFEST_TRIES):
            table = self._manifests.get(version.id)
            if table is not None and table.has_failed:
                # Where the file is damaged it is found out as it is opened.
                self._manifests.pop(version.id).close()
            elif table is not None:
                self._manifests.move_to_end(version.id)
                return table
            await self._manifest_flights.join(
                version.id,
                lambda: self._load_manifest(version),
                timeout_s=timeout_s,
                what=f"list the files of {version.path}",
            )
        raise StoreError(
            f"can't list the files of {version.path}: so many other versions are listed at the"
            " same time that its table is closed before it is used; try again"
        )

    async def _load_manifest(self, version: Version) -> None:
        resources = self._resources
        table = await resources.offload.run(
            Kind.MANIFEST,
            lambda: resources.sources.manifest(
                version, deadline=Deadline.after(resources.timeout_s)
            ),
        )
        if self._fingerprints.setdefault(version.id, table.fingerprint) != table.fingerprint:
            table.close()
            raise StaleInode(
                f"the server's manifest of {version.path} is another one than it was, which should"
                " never be: programs would take one file for another; mount again"
            )
        if table.left_out.count:
            log.warning(
                "%s: %d entries are left out, for example %s",
                version.path,
                table.left_out.count,
                "; ".join(f"{path!r}: {why}" for path, why in table.left_out.report[:3]),
            )
        self._manifests[version.id] = table
        while len(self._manifests) > OPEN_MANIFESTS:
            self._manifests.popitem(last=False)[1].close()

    def has_manifest(self, version: Version) -> bool:
        """Whether `manifest` would return the version's table at once."""
        return version.id in self._manifests

    def open_manifests(self) -> dict[str, ManifestTable]:
        """The open tables by artifact id, least recently used first."""
        return dict(self._manifests)

    def refuse(self, entry: Entry) -> None:
        """Raise AccessDenied for a reference that this mount doesn't read.

        Be it in the cache for another one that does.
        """
        if entry.reference is not None:
            self._resources.sources.refuse(entry.reference)

    def reader(
        self, version: Version, file: File, inode: int, *, is_learnt: bool = False
    ) -> Reader:
        """Return what one open handle reads with; nothing is fetched yet.

        `inode` is what the kernel keeps the file's pages by; `is_learnt` tells that the size is not
        the manifest's. Raises StoreError; AccessDenied as `refuse` does.
        """
        self.refuse(file.entry)
        sealed = self._resources.blobs.open(file.entry.blob)
        self.counters.opened_files += 1
        self.counters.opened_here += sealed is not None
        return Reader(self, version, file, inode, sealed, is_learnt=is_learnt)

    def close(self) -> None:
        """Close the manifest tables, and note what is there of large files."""
        self.large.close()
        for table in self._manifests.values():
            table.close()
        self._manifests.clear()

    def was_of_another_size(self, entry: Entry, inode: int) -> None:
        """Take note that a size which an origin told is not that of its file, or not any more."""
        self.sizes.forget(entry, inode)
        self._drop_pages(frozenset({inode}))

    async def ensure(
        self,
        version: Version,
        entry: Entry,
        *,
        on_large: Callable[[LargeFile], None] = lambda file: None,
    ) -> int:
        """Fetch the entry's blob unless the store has it, and check it.

        Where a large file is fetched, `on_large` is given it first. Return a descriptor for the
        caller. Raises WbfsError.
        """
        wanted = Wanted(version, entry)
        if is_sized_by_reading(entry):
            wanted = wanted.of_any_size
        elif not entry.is_sized:
            wanted = wanted.of_size(await self.sizes.ask(version, entry))
        try:
            return (await self._ensure(wanted, on_large)).reopen()
        except ReferenceChanged:
            if not entry.is_sized:
                self.sizes.forget(entry)
            raise

    async def _ensure(self, wanted: Wanted, on_large: Callable[[LargeFile], None]) -> SealedBlob:
        sealed = await self.find(wanted)
        if sealed is None and is_large(wanted.entry):
            file = self.large.use(wanted)
            try:
                on_large(file)
                sealed = await file.whole(wanted)
            finally:
                self.large.release(file)
        return sealed or await self.fetch_small(wanted)

    async def check(self, wanted: Wanted) -> SealedBlob | None:
        """Return the blob if this machine has it in a place that is to be checked first.

        Raises WbfsError.
        """
        blob, blobs = wanted.entry.blob, self._resources.blobs
        if self.prefetch.is_fetching(blob.key) or not blobs.has_unchecked(blob):
            return None
        # What is small must not wait until large files were hashed.
        is_small = blob.size is not None and blob.size <= LARGEST_WHOLE
        kind = Kind.DISK if is_small else Kind.CHECK
        sealed = await self._checks.join(
            blob,
            lambda: self._resources.offload.run(kind, lambda: blobs.check(blob)),
            timeout_s=stretched(self._resources.timeout_s, blob.size),
            what=f"read {wanted.path}",
        )
        self._resources.writeback.due()
        return sealed

    async def find(self, wanted: Wanted) -> SealedBlob | None:
        """Return the blob if this machine has it, be it that it has to be checked first.

        Raises WbfsError.
        """
        return self._resources.blobs.open(wanted.entry.blob) or await self.check(wanted)

    async def fetch_small(self, wanted: Wanted) -> SealedBlob:
        """Fetch the blob of a file that is not large. Raises WbfsError."""
        return await self._whole.fetch(wanted)

    def drop(self, wanted: Wanted, sealed: SealedBlob, error: StoreError) -> bool:
        """Drop a file that the disk can't read; return whether it may be had otherwise."""
        log.warning("%s: %s; it is fetched again", wanted.path, error)
        return self._resources.blobs.drop(wanted.entry.blob, sealed)

    async def pread(self, fd: int, offset: int, size: int) -> memoryview:
        """Read exactly `size` bytes of a cached file. Raises StoreError."""
        return await self._resources.pread(fd, offset, size)


class Reader:
    """One open file of a version: reads its bytes, wherever they are.

    `keeps_pages` tells whether what the kernel has of the file may stay there.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        version: Version,
        file: File,
        inode: int,
        sealed: SealedBlob | None,
        *,
        is_learnt: bool,
    ) -> None:
        self.version = version
        self._fetcher = fetcher
        self._file = file
        self._wanted = Wanted(version, file.entry)
        self._inode = inode
        self._sealed = sealed
        self.keeps_pages = fetcher.large.keeps_pages(
            self._wanted, inode, is_sealed=sealed is not None
        )
        # Of a file whose size an origin told.
        self._is_learnt = is_learnt
        # Of a small file: what was served, and where it was when its first byte was asked for.
        self._served = 0
        self._was = Was.HERE
        self._large: OpenLargeFile | None = None
        self._closed = False
        # The store's file, which the disk couldn't read: once a handle.
        self._was_dropped = False
        self._failure: _Failure | None = None

    @property
    def path(self) -> str:
        """The file's path as the SDK writes it."""
        return self._wanted.path

    async def read(self, offset: int, size: int) -> memoryview:
        """Return the `size` bytes at `offset`, fewer only at the end of the file.

        Raises WbfsError.
        """
        failure = self._failure
        if failure is not None and failure.is_of(offset, size):
            raise failure.error.with_traceback(None)
        try:
            return await self._read(offset, size)
        except WbfsError as error:
            self._failure = _Failure(error, offset, size, trio.current_time())
            raise

    async def begin(self) -> None:
        """Fetch the file, for a moment, if that is how its size is found out. Raises WbfsError.

        Whoever waits for `open` can't be killed, and for a read they can.
        """
        if self._wanted.entry.size is None:
            with trio.move_on_after(OPEN_WAIT_S):
                await self._find_out_size()

    async def _find_out_size(self) -> None:
        sealed = await self._fetcher.find(self._wanted)
        if sealed is None:
            self._was = Was.MISSING
            sealed = await self._fetch_small()
        if not sealed.in_memory and not self._closed:
            self._sealed = sealed
        self._wanted = self._wanted.of_size(os.fstat(sealed.fd).st_size)

    async def _read(self, offset: int, size: int) -> memoryview:
        if self._wanted.entry.size is None:
            await self._find_out_size()
        entry = self._wanted.entry
        assert entry.size is not None
        size = min(size, entry.size - offset)
        if size <= 0:
            return memoryview(b"")
        if self._sealed is None and self._large is None:
            self._sealed = await self._fetcher.find(self._wanted)
            if self._closed:
                raise BadHandle(f"{self._wanted.path} was closed while it was read")
            if self._sealed is None:
                self._fetcher.listed.is_wanted(self._wanted.version, self._file)
            if self._sealed is None and self._large is None and is_large(entry):
                self._large = self._fetcher.large.open(self._wanted, self._inode)
        if self._large is not None:
            return await self._large.read(offset, size)
        sealed = self._sealed
        if sealed is None:
            self._was = Was.MISSING
            sealed = await self._fetch_small()
        self._note_use(sealed)
        if not sealed.in_memory:
            self._sealed = sealed
        try:
            piece = await self._fetcher.pread(sealed.fd, offset, size)
        except StoreError as error:
            if self._was_dropped or not self._fetcher.drop(self._wanted, sealed, error):
                raise
            self._was_dropped = True
            self._sealed = None
            return await self._read(offset, size)
        self._note_read(size)
        return piece

    async def _fetch_small(self) -> SealedBlob:
        try:
            return await self._fetcher.fetch_small(self._wanted)
        except ReferenceChanged:
            if self._is_learnt:
                # It may have changed since; whoever asks next is told what it is then.
                self._fetcher.was_of_another_size(self._wanted.entry, self._inode)
            raise

    def _note_use(self, sealed: SealedBlob) -> None:
        if sealed.was_unread:
            sealed.was_unread = False
            self._was = Was.PREFETCHED
            self._fetcher.loaders.was_used(self._wanted.version, self._wanted.entry)

    def _note_read(self, size: int) -> None:
        """Tell once, when all of a small file was served: what looks into files is no loader."""
        whole = self._wanted.entry.size
        if whole is None or is_large(self._wanted.entry) or self._served >= whole:
            return
        self._served += size
        if self._served >= whole:
            self._fetcher.loaders.was_read(self._wanted.version, self._file, self._was)

    def close(self) -> None:
        """Let go of the file."""
        self._closed = True
        self._sealed = None
        if self._large is not None:
            self._large.close()
            self._large = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a read of a handle failed on, at a moment of trio's clock."""

    error: WbfsError
    offset: int
    size: int
    at_s: float

    def is_of(self, offset: int, size: int) -> bool:
        """Whether a read now would, in all likelihood, fail on the same."""
        overlaps = offset < self.offset + self.size and self.offset < offset + size
        return overlaps and trio.current_time() - self.at_s < FAILURE_MEMORY_S

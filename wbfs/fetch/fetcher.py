"""Reads files and manifests: from the store where it has them, from the network where not.

The first read of a file fetches it whole into the store, checks its digest and then serves it.
Trio thread; the network and slow disks are left to `Offload`.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from dataclasses import dataclass

import trio

from wbfs.fetch.flights import Flights
from wbfs.fetch.offload import Kind, Offload
from wbfs.fetch.room import Room
from wbfs.fetch.sources import ARTIFACT_SCHEME, Sources
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import (
    IntegrityError,
    ReferenceChanged,
    RemoteError,
    StoreError,
    StoreFull,
    UrlExpired,
    WbfsError,
)
from wbfs.remote.transport import Deadline
from wbfs.store.blobs import Blobs, PartialBlob, SealedBlob, read_fully, read_in_memory
from wbfs.store.manifests import ManifestTable

log = logging.getLogger(__name__)

OPEN_MANIFESTS = 128
"""Manifest tables kept open; the rest are opened again from the store when they are asked for."""
MANIFEST_TRIES = 3
"""Times that a table is opened for one request, should it be among the first to be closed."""
SLOWEST_BYTES_PER_S = 1 << 20
"""A whole file's deadline is stretched by its size at this rate."""
FUTILE_ATTEMPTS = 4
"""Attempts in a row that brought no byte before a fetch is given up."""
FAILURE_MEMORY_S = 2.0
"""Seconds that a handle repeats its last error: after a read-ahead that failed, the kernel asks
again for the very page that the program wants."""


@dataclass(slots=True)
class Counters:
    """What was fetched and served since the mount began; sizes in bytes."""

    fetched_bytes: int = 0
    fetched_files: int = 0
    failed_fetches: int = 0
    served_bytes: int = 0


class Fetcher:
    """The fetches of one mount."""

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        offload: Offload,
        sources: Sources,
        blobs: Blobs,
        room: Room,
        timeout_s: float,
    ) -> None:
        self._offload = offload
        self._sources = sources
        self._blobs = blobs
        self._room = room
        self._timeout_s = timeout_s
        self._manifests: OrderedDict[str, ManifestTable] = OrderedDict()
        self._manifest_flights: Flights[None] = Flights(nursery)
        self._blob_flights: Flights[SealedBlob] = Flights(nursery)
        self.counters = Counters()

    @property
    def fetching(self) -> int:
        """How many files are being fetched."""
        return len(self._blob_flights)

    async def manifest(self, version: Version) -> ManifestTable:
        """Return the version's table, to be used before the next await. Raises WbfsError."""
        for _ in range(MANIFEST_TRIES):
            table = self._manifests.get(version.id)
            if table is not None:
                self._manifests.move_to_end(version.id)
                return table
            await self._manifest_flights.join(
                version.id,
                lambda: self._load_manifest(version),
                timeout_s=self._timeout_s,
                what=f"list the files of {version.path}",
            )
        raise StoreError(
            f"can't list the files of {version.path}: so many other versions are listed at the"
            " same time that its table is closed before it is used; try again"
        )

    async def _load_manifest(self, version: Version) -> None:
        deadline = Deadline.after(self._timeout_s)
        table = await self._offload.run(
            Kind.METADATA, lambda: self._sources.manifest(version, deadline=deadline)
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

    def open_manifests(self) -> dict[str, ManifestTable]:
        """The open tables by artifact id, least recently used first."""
        return dict(self._manifests)

    def reader(self, version: Version, entry: Entry) -> Reader:
        """Return what one open handle reads with; nothing is fetched yet. Raises StoreError."""
        return Reader(self, version, entry, self._blobs.open(entry.blob))

    def close(self) -> None:
        """Close the manifest tables."""
        for table in self._manifests.values():
            table.close()
        self._manifests.clear()

    async def ensure(self, version: Version, entry: Entry) -> int:
        """Fetch the entry's blob unless the store has it; return a descriptor for the caller."""
        blob = entry.blob
        what = f"read {version.path}/{entry.path}"
        timeout_s = self._timeout_s + (blob.size or 0) / SLOWEST_BYTES_PER_S

        async def fetch() -> SealedBlob:
            deadline = Deadline.after(timeout_s)

            def fetch_whole() -> tuple[SealedBlob, int]:
                return self._fetch_whole(version, entry, deadline)

            try:
                try:
                    sealed, size = await self._offload.run(Kind.DATA, fetch_whole)
                except StoreFull:
                    await self._room.make(blob.size or 0)
                    sealed, size = await self._offload.run(Kind.DATA, fetch_whole)
            except WbfsError:
                self.counters.failed_fetches += 1
                raise
            self.counters.fetched_files += 1
            self.counters.fetched_bytes += size
            self._room.added(size)
            return sealed

        fd = self._blobs.open(blob)
        if fd is not None:
            return fd
        sealed = await self._blob_flights.join(blob.key, fetch, timeout_s=timeout_s, what=what)
        return sealed.reopen()

    async def pread(self, fd: int, offset: int, size: int) -> memoryview:
        """Read exactly `size` bytes of a sealed blob: at once if the kernel has them in memory."""
        buffer = memoryview(bytearray(size))
        done = read_in_memory(fd, buffer, offset)
        if done < size:
            rest = buffer[done:]
            await self._offload.run(Kind.DISK, lambda: read_fully(fd, rest, offset + done))
        self.counters.served_bytes += size
        return buffer

    def _fetch_whole(
        self, version: Version, entry: Entry, deadline: Deadline
    ) -> tuple[SealedBlob, int]:
        """Fetch an entry's blob into the store; return it and its size. In a worker thread."""
        try:
            return self._fetch_and_seal(version, entry, deadline)
        except IntegrityError as error:
            log.warning("%s/%s: %s; it is fetched once more", version.path, entry.path, error)
        try:
            return self._fetch_and_seal(version, entry, deadline)
        except IntegrityError as error:
            if entry.reference is not None and not entry.reference.uri.startswith(ARTIFACT_SCHEME):
                # Without a query, which may be a signature.
                uri = entry.reference.uri.partition("?")[0]
                raise ReferenceChanged(
                    f"{uri} is no longer what was logged: {error}; log the artifact"
                    " again to take it as it is now"
                ) from error
            raise IntegrityError(
                f"it is damaged on the server or on the way, twice: {error}; log the artifact"
                " again, or ask who runs the server"
            ) from error

    def _fetch_and_seal(
        self, version: Version, entry: Entry, deadline: Deadline
    ) -> tuple[SealedBlob, int]:
        with self._blobs.create(entry.blob) as partial:
            futile = 0
            while True:
                before = partial.written
                try:
                    self._append(version, entry, partial, deadline)
                    break
                except RemoteError as error:
                    if entry.size is not None and partial.written == entry.size:
                        # Only the end's sign is missing; the digest tells whether it is the end.
                        break
                    # A connection cut in mid-body goes on where it stopped, with a fresh URL.
                    futile = 0 if partial.written > before else futile + 1
                    final = isinstance(error, UrlExpired) and futile > 1
                    if final or futile >= FUTILE_ATTEMPTS or deadline.expired:
                        raise
                    if partial.written and entry.reference and entry.reference.unchecked:
                        # Nothing would tell if the rest were another object's.
                        raise
                    log.info("%s/%s goes on: %s", version.path, entry.path, error)
            return partial.seal(), partial.written

    def _append(
        self, version: Version, entry: Entry, partial: PartialBlob, deadline: Deadline
    ) -> None:
        start = partial.written
        with self._sources.open(version, entry, start=start, deadline=deadline) as stream:
            for piece in stream.pieces:
                partial.append(piece)
                if entry.size is not None and partial.written > entry.size:
                    raise IntegrityError(f"got more than the {entry.size} bytes of the manifest")


class Reader:
    """One open file: reads its bytes, wherever they are."""

    def __init__(self, fetcher: Fetcher, version: Version, entry: Entry, fd: int | None) -> None:
        self._fetcher = fetcher
        self._version = version
        self._entry = entry
        self._fd = fd
        self._failure: tuple[float, WbfsError] | None = None

    async def read(self, offset: int, size: int) -> memoryview:
        """Return the `size` bytes at `offset`, fewer only at the end of the file.

        Raises WbfsError.
        """
        fd = self._fd if self._fd is not None else await self._fetch()
        end = self._entry.size if self._entry.size is not None else os.fstat(fd).st_size
        return await self._fetcher.pread(fd, offset, max(0, min(size, end - offset)))

    async def _fetch(self) -> int:
        if self._failure and trio.current_time() - self._failure[0] < FAILURE_MEMORY_S:
            raise self._failure[1]
        try:
            fd = await self._fetcher.ensure(self._version, self._entry)
        except WbfsError as error:
            self._failure = (trio.current_time(), error)
            raise
        # Of several reads that waited, one keeps its descriptor for the handle.
        if self._fd is None:
            self._fd = fd
        else:
            os.close(fd)
        return self._fd

    def close(self) -> None:
        """Let go of the blob."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

"""Small files, and those of unknown size: fetched whole and checked before a byte is served.

Trio thread, but for what runs in `Offload`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

from wbfs.fetch.flights import Flights
from wbfs.fetch.offload import Kind
from wbfs.fetch.origin import Origin
from wbfs.fetch.prefetch import Prefetch
from wbfs.fetch.resources import Resources
from wbfs.fetch.transfer import fetch_whole, stretched
from wbfs.model.entries import Blob, Entry
from wbfs.model.errors import StoreFull, WbfsError
from wbfs.remote.transport import Deadline
from wbfs.store.blobs import SealedBlob
from wbfs.store.partial import SmallBlob

log = logging.getLogger(__name__)

LARGEST_WHOLE = 4 << 20
"""Bytes of a file up to which it is fetched whole, and checked, before a byte is served."""
LARGEST_IN_MEMORY = 8 << 20
"""Bytes of a file that is kept in memory where the disk has no room for it."""
MEMORY_BYTES = 64 << 20
"""Bytes of all of them together."""


class WholeFiles:
    """The files that are fetched whole, one request at a time for each content."""

    def __init__(self, resources: Resources, prefetch: Prefetch) -> None:
        """What `prefetch` has under way is not fetched twice."""
        self._resources = resources
        self._prefetch = prefetch
        self._flights: Flights[SealedBlob] = Flights(resources.nursery)
        self._in_memory: OrderedDict[str, tuple[SealedBlob, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flights)

    async def fetch(self, origin: Origin) -> SealedBlob:
        """Return the entry's blob, fetched into the store; into memory if its disk is full.

        Raises WbfsError.
        """
        blob = origin.entry.blob
        if blob.key in self._in_memory:
            self._in_memory.move_to_end(blob.key)
            return self._in_memory[blob.key][0]
        return await self._flights.join(
            blob,
            lambda: self._fetch(origin),
            timeout_s=stretched(self._resources.timeout_s, blob.size),
            what=f"read {origin.path}",
        )

    async def _fetch(self, origin: Origin) -> SealedBlob:
        with self._prefetch.demand(origin.entry.blob.key) as landing:
            if landing is not None:
                # Its deadline is no later than this one's would be.
                await landing.wait()
            # It may have come since the caller looked.
            sealed = self._resources.blobs.open(origin.entry.blob)
            return sealed or await self._fetch_now(origin)

    async def _fetch_now(self, origin: Origin) -> SealedBlob:
        size = origin.entry.size
        deadline = Deadline.after(stretched(self._resources.timeout_s, size))
        try:
            try:
                return await self._fetch_to_store(origin, deadline)
            except StoreFull:
                await self._resources.room.make(size or 0)
            try:
                return await self._fetch_to_store(origin, deadline)
            except StoreFull as error:
                if size is None or size > LARGEST_IN_MEMORY:
                    raise
                log.warning("%s is read past the cache: %s", origin.path, error)
            return await self._fetch_to_memory(origin, deadline)
        except WbfsError:
            self._resources.counters.failed_fetches += 1
            raise

    async def _fetch_to_store(self, origin: Origin, deadline: Deadline) -> SealedBlob:
        partial = self._resources.partial
        sealed, size = await self._fetch_checked(origin, deadline, partial.small)
        self._resources.room.added(self._resources.blobs.rounded(size))
        self._resources.writeback.due()
        return sealed

    async def _fetch_to_memory(self, origin: Origin, deadline: Deadline) -> SealedBlob:
        partial = self._resources.partial
        sealed, size = await self._fetch_checked(origin, deadline, partial.in_memory)
        self._in_memory[origin.entry.blob.key] = sealed, size
        while sum(size for _, size in self._in_memory.values()) > MEMORY_BYTES:
            self._in_memory.popitem(last=False)
        return sealed

    async def _fetch_checked(
        self, origin: Origin, deadline: Deadline, create: Callable[[Blob], SmallBlob]
    ) -> tuple[SealedBlob, int]:
        opener = self._resources.opener(origin)
        sealed, size = await self._resources.offload.run(
            Kind.DATA,
            lambda: fetch_whole(opener, create, origin.entry, path=origin.path, deadline=deadline),
        )
        self._resources.counters.fetched_files += 1
        self._resources.counters.fetched_bytes += size
        return sealed, size


def is_large(entry: Entry) -> bool:
    """Whether a file is fetched in ranges.

    Not one that nothing identifies: its ranges could be of different objects.
    """
    if entry.reference is not None and entry.reference.unchecked:
        return False
    return entry.size is not None and entry.size > LARGEST_WHOLE

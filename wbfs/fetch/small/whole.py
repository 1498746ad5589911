"""Small files, and those of unknown size: fetched whole and checked before a byte is served.

Trio thread, but for what runs in `Offload`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from wbfs.fetch.ahead.queue import Prefetch
from wbfs.fetch.resources import Resources
from wbfs.fetch.transfer import deadline_of, fetch_whole, stretched
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.flights import Flights
from wbfs.fetch.work.offload import Kind
from wbfs.model.entries import Blob, Entry
from wbfs.model.errors import StoreError, WbfsError
from wbfs.remote.http.transport import Deadline
from wbfs.store.content.partial import SmallBlob
from wbfs.store.content.sealed import SealedBlob

log = logging.getLogger(__name__)

LARGEST_WHOLE = 4 << 20
"""Bytes of a file up to which it is fetched whole, and checked, before a byte is served."""
LARGEST_IN_MEMORY = 32 << 20
"""Bytes of a file that is kept in memory where the store can't hold it."""
MEMORY_BYTES = 64 << 20
"""Bytes of all of them together."""
MEMORY_FILES = 128
"""How many they are at most: each takes a descriptor."""


class WholeFiles:
    """The files that are fetched whole, one request at a time for each content."""

    def __init__(self, resources: Resources, prefetch: Prefetch) -> None:
        """What `prefetch` has under way is not fetched twice."""
        self._resources = resources
        self._prefetch = prefetch
        self._flights: Flights[SealedBlob] = Flights(resources.background)
        self._in_memory: OrderedDict[Blob, tuple[SealedBlob, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flights)

    async def fetch(self, wanted: Wanted) -> SealedBlob:
        """Return the entry's blob, fetched into the store; into memory if that can't hold it.

        Raises WbfsError.
        """
        blob = wanted.entry.blob
        if blob in self._in_memory:
            self._in_memory.move_to_end(blob)
            return self._in_memory[blob][0]
        return await self._flights.join(
            blob,
            partial(self._fetch, wanted),
            timeout_s=stretched(self._resources.timeout_s, blob.size),
            what=f"read {wanted.path}",
        )

    async def _fetch(self, wanted: Wanted) -> SealedBlob:
        with self._prefetch.demand(wanted.entry.blob.key) as landing:
            if landing is not None:
                # Its deadline is no later than this one's would be.
                await landing.wait()
            # It may have come since the caller looked.
            sealed = self._resources.blobs.open(wanted.entry.blob)
            if sealed is not None:
                return sealed
            journal = self._resources.journal
            fetch = journal.begin(wanted, "a reader", wanted.entry.size)
            failure: WbfsError | None = None
            try:
                sealed, fetch.brought = await self._fetch_now(wanted)
                return sealed
            except WbfsError as error:
                failure = error
                self._resources.counters.failed_fetches += 1
                raise
            finally:
                journal.end(fetch, failure)

    async def _fetch_now(self, wanted: Wanted) -> tuple[SealedBlob, int]:
        size = wanted.entry.size
        deadline = deadline_of(self._resources.timeout_s, size)
        try:
            return await self._fetch_to_store(wanted, deadline)
        except StoreError as error:
            if size is not None and size > LARGEST_IN_MEMORY:
                raise
            log.debug("%s is read past the cache: %s", wanted.path, error)
            return await self._fetch_to_memory(wanted, deadline)

    async def _fetch_to_store(self, wanted: Wanted, deadline: Deadline) -> tuple[SealedBlob, int]:
        sealed, size = await self._fetch_checked(wanted, deadline, self._resources.partial.small)
        # It takes files again: those in memory are fetched into it once they are read again.
        self._in_memory.clear()
        self._resources.writeback.due()
        return sealed, size

    async def _fetch_to_memory(self, wanted: Wanted, deadline: Deadline) -> tuple[SealedBlob, int]:
        create = partial(self._resources.partial.in_memory, limit=LARGEST_IN_MEMORY)
        sealed, size = await self._fetch_checked(wanted, deadline, create)
        self._in_memory[wanted.entry.blob] = sealed, size
        while (
            len(self._in_memory) > MEMORY_FILES
            or sum(size for _, size in self._in_memory.values()) > MEMORY_BYTES
        ):
            self._in_memory.popitem(last=False)
        return sealed, size

    async def _fetch_checked(
        self, wanted: Wanted, deadline: Deadline, create: Callable[[Blob], SmallBlob]
    ) -> tuple[SealedBlob, int]:
        opener = self._resources.opener(wanted)
        sealed, size = await self._resources.fetch(
            Kind.DATA,
            wanted,
            lambda: fetch_whole(opener, create, wanted.entry, path=wanted.path, deadline=deadline),
            deadline=deadline,
        )
        self._resources.counters.fetched_files += 1
        self._resources.counters.fetched_bytes += size
        return sealed, size


def is_large(entry: Entry) -> bool:
    """Whether a file is fetched in ranges, and read before all of it was checked.

    Not one that nothing identifies: its ranges could be of different objects. Nor a local one,
    which only its digest shows to be the artifact's and not some file that the reader may not see.
    """
    if entry.reference is not None and (entry.reference.unchecked or entry.reference.is_local):
        return False
    return entry.size is not None and entry.size > LARGEST_WHOLE


def is_sized_by_reading(entry: Entry) -> bool:
    """Whether a file of which the manifest has a hint of its size comes whole, and is known then.

    It is not asked for: that would be one more request for each file that is read.
    """
    return entry.size_is_hint and not is_large(entry)

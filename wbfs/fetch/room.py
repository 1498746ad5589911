"""Keeps the cache within its bounds while fetches add to it. Trio thread."""

from __future__ import annotations

import logging
from pathlib import Path

import trio

from wbfs.fetch.offload import Kind, Offload
from wbfs.store.eviction import Bounds, cached_files, excess, prune

log = logging.getLogger(__name__)


class Room:
    """Counts what is added, and prunes once it is too much; one pruning at a time.

    `used` is what the cache has in bytes, as far as this daemon knows: others may share it, and a
    pruning counts anew. None until the first count.
    """

    def __init__(
        self, *, nursery: trio.Nursery, offload: Offload, cache_dir: Path, bounds: Bounds
    ) -> None:
        self._nursery = nursery
        self._offload = offload
        self._cache_dir = cache_dir
        self._pruning = False
        self.bounds = bounds
        self.used: int | None = None

    async def count(self) -> None:
        """Count what the cache has. It may take a while; nothing waits for it."""
        files = await self._offload.run(Kind.DISK, lambda: list(cached_files(self._cache_dir)))
        self.used = sum(file.size for file in files)
        self._keep_bounds()

    def added(self, size: int) -> None:
        """Note that a fetch has added `size` bytes."""
        if self.used is not None:
            self.used += size
            self._keep_bounds()

    def _keep_bounds(self) -> None:
        if not self._pruning and excess(self._cache_dir, self.used or 0, self.bounds):
            self._pruning = True
            self._nursery.start_soon(self._prune, self.bounds, name="prune the cache")

    async def _prune(self, bounds: Bounds) -> None:
        try:
            pruned = await self._offload.run(Kind.DISK, lambda: prune(self._cache_dir, bounds))
        finally:
            self._pruning = False
        self.used = pruned.kept
        log.info("removed %d files, %d bytes from the cache", pruned.removed_files, pruned.removed)

    async def make(self, size: int) -> None:
        """Free room for `size` bytes on a full disk, as far as there is something to remove."""
        await self._prune(Bounds(limit=None, min_free=max(size, self.bounds.min_free or 0)))

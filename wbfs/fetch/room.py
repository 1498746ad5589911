"""Keeps the cache within its bounds while fetches add to it. Trio thread."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import trio

from wbfs.fetch.offload import Kind, Offload
from wbfs.store.eviction import Bounds, cached_files, excess, prune
from wbfs.store.sdk_cache import SdkCache

log = logging.getLogger(__name__)


FULL_S = 10.0
"""Seconds before a pruning that found nothing to remove is tried again."""


CHECKED_EVERY = 4 << 20
"""Bytes that may be added before the bounds are looked at again; of a small cache, a share."""
CHECKED_SHARE = 1 / 16


class Room:
    """Counts what is added, and prunes once it is too much; one pruning at a time.

    `used` is what the cache has in bytes, as far as this daemon knows: others may share it, and a
    pruning counts anew. None until the first count.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        offload: Offload,
        cache_dir: Path,
        sdk_cache: SdkCache,
        bounds: Bounds,
    ) -> None:
        self._nursery = nursery
        self._offload = offload
        self._cache_dir = cache_dir
        self._sdk_cache = sdk_cache
        self._pruning = False
        self._full_until = -math.inf
        self._unchecked = 0
        share = CHECKED_EVERY if bounds.limit is None else int(bounds.limit * CHECKED_SHARE)
        self._checked_every = min(CHECKED_EVERY, share)
        self.bounds = bounds
        self.used: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether the cache is over its bounds with nothing to remove but what is in use."""
        return trio.current_time() < self._full_until

    async def count(self) -> None:
        """Count what the cache has. It may take a while; nothing waits for it."""
        files = await self._offload.run(Kind.DISK, lambda: list(cached_files(self._cache_dir)))
        self.used = sum(file.size for file in files)
        self._keep_bounds()

    def added(self, size: int) -> None:
        """Note that a fetch has added `size` bytes."""
        self._unchecked += size
        if self.used is not None and self._unchecked >= self._checked_every:
            self.used += self._unchecked
            self._unchecked = 0
            self._keep_bounds()

    def _keep_bounds(self) -> None:
        if self._pruning or self.is_full:
            return
        if excess(self._cache_dir, self.used or 0, self.bounds):
            self._prune_soon(self.bounds)

    def make_soon(self, size: int) -> None:
        """Free room for `size` bytes on a full disk, as `make` does, with nobody waiting for it."""
        if not self._pruning:
            self._prune_soon(self._bounds_for(size))

    def _prune_soon(self, bounds: Bounds) -> None:
        self._pruning = True
        self._nursery.start_soon(self._prune, bounds, name="prune the cache")

    async def _prune(self, bounds: Bounds) -> None:
        try:
            pruned = await self._offload.run(
                Kind.DISK, lambda: prune(self._cache_dir, bounds, self._sdk_cache)
            )
        finally:
            self._pruning = False
        self.used = pruned.kept
        if pruned.still_over:
            self._full_until = trio.current_time() + FULL_S
        log.info("removed %d files, %d bytes from the cache", pruned.removed_files, pruned.removed)

    async def make(self, size: int) -> None:
        """Free room for `size` bytes on a full disk, as far as there is something to remove."""
        await self._prune(self._bounds_for(size))

    def _bounds_for(self, size: int) -> Bounds:
        return Bounds(limit=None, min_free=max(size, self.bounds.min_free or 0))

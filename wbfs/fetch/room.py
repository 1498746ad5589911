"""Keeps the cache within its bounds while fetches add to it. Trio thread."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import trio

from wbfs.fetch.background import Background
from wbfs.fetch.counters import Counters
from wbfs.fetch.offload import Kind, Offload
from wbfs.model.errors import StoreError
from wbfs.store.eviction import (
    ROOM_SHARE,
    Bounds,
    cached_files,
    excess,
    free_room,
    prune,
)
from wbfs.store.sdk_cache import SdkCache

log = logging.getLogger(__name__)


FULL_S = 10.0
"""Seconds before a pruning that found nothing to remove is tried again."""


CHECKED_EVERY = 4 << 20
"""Bytes that may be added before the bounds are looked at again; of a small cache, a share."""
CHECKED_SHARE = 1 / 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Where not all that is `needed` may be here at once: bytes, and whether the disk is why."""

    needed: int
    allowed: int
    is_of_disk: bool


class Room:
    """Counts what is added, and prunes once it is too much; one pruning at a time.

    `used` is what the cache has in bytes, as far as this daemon knows: others may share it, and a
    pruning counts anew. None until the first count.
    """

    def __init__(
        self,
        *,
        background: Background,
        offload: Offload,
        cache_dir: Path,
        sdk_cache: SdkCache,
        bounds: Bounds,
        counters: Counters,
    ) -> None:
        self._background = background
        self._offload = offload
        self._counters = counters
        self._cache_dir = cache_dir
        self._sdk_cache = sdk_cache
        # Those that wait for their turn too.
        self._prunings = 0
        self._one_pruning = trio.Lock()
        self._full_until = -math.inf
        self._unchecked = 0
        share = CHECKED_EVERY if bounds.limit is None else int(bounds.limit * CHECKED_SHARE)
        self._checked_every = min(CHECKED_EVERY, share)
        self.bounds = bounds
        self.used: int | None = None

    @property
    def left(self) -> int:
        """How many bytes may be added before something is removed, as far as this is known."""
        try:
            left = free_room(self._cache_dir, self.bounds)
        except StoreError as error:
            log.warning("%s", error)
            return 0
        if self.bounds.limit is not None:
            # Before the first count nothing is known.
            used = self.bounds.limit if self.used is None else self.used + self._unchecked
            left = min(left, self.bounds.limit - used)
        return max(0, left)

    @property
    def is_full(self) -> bool:
        """Whether the cache is over its bounds with nothing to remove but what is in use."""
        return trio.current_time() < self._full_until

    async def count(self) -> None:
        """Count what the cache has. It may take a while; nothing waits for it."""
        try:
            files = await self._offload.run(Kind.DISK, lambda: list(cached_files(self._cache_dir)))
        except StoreError as error:
            log.warning("how large the cache is stays unknown: %s", error)
            return
        self.used = sum(file.size for file in files)
        self._keep_bounds()

    async def make_beside(self, held: int, missing: int) -> Shortage | None:
        """Make room on the disk for `missing` bytes beside `held` ones that were used just now.

        Where they can't be here together, say so and remove nothing.
        """
        if self.bounds.limit is not None:
            # A pruning goes as far below the limit.
            allowed = int(self.bounds.limit * (1 - ROOM_SHARE))
            if held + missing > allowed:
                return Shortage(needed=held + missing, allowed=allowed, is_of_disk=False)
        free = free_room(self._cache_dir, self.bounds)
        if missing <= free:
            return None
        files = await self._offload.run(Kind.DISK, lambda: list(cached_files(self._cache_dir)))
        allowed = max(0, free + sum(file.size for file in files) - held)
        if missing > allowed:
            return Shortage(needed=missing, allowed=allowed, is_of_disk=True)
        self._prunings += 1
        await self._prune(Bounds(limit=None, min_free=missing + (self.bounds.min_free or 0)))
        return None

    def added(self, size: int) -> None:
        """Note that a fetch has added `size` bytes."""
        self._unchecked += size
        if self.used is not None and self._unchecked >= self._checked_every:
            self.used += self._unchecked
            self._unchecked = 0
            self._keep_bounds()

    def _keep_bounds(self) -> None:
        if self._prunings or self.is_full:
            return
        try:
            is_over = excess(self._cache_dir, self.used or 0, self.bounds) > 0
        except StoreError as error:
            self._give_up(error)
            return
        if is_over:
            self._prune_soon(self.bounds)

    def _give_up(self, error: StoreError) -> None:
        """Keep no bounds for a while: the disk itself is in trouble."""
        log.warning("the cache's bounds are not kept for now: %s", error)
        self._full_until = trio.current_time() + FULL_S

    def make_soon(self, size: int) -> None:
        """Free room for `size` bytes on a full disk, as `make` does, with nobody waiting for it."""
        if not self._prunings:
            self._prune_soon(self._bounds_for(size))

    def _prune_soon(self, bounds: Bounds) -> None:
        self._prunings += 1
        self._background.spawn(lambda: self._prune(bounds), name="prune the cache")

    async def _prune(self, bounds: Bounds) -> None:
        try:
            async with self._one_pruning:
                pruned = await self._offload.run(
                    Kind.DISK, lambda: prune(self._cache_dir, bounds, self._sdk_cache)
                )
        except StoreError as error:
            self._give_up(error)
            return
        finally:
            self._prunings -= 1
        self.used = pruned.kept
        self._counters.wasted_bytes += pruned.unread
        if pruned.still_over:
            self._full_until = trio.current_time() + FULL_S
        log.info("removed %d files, %d bytes from the cache", pruned.removed_files, pruned.removed)

    async def make(self, size: int) -> None:
        """Free room for `size` bytes on a full disk, as far as there is something to remove."""
        self._prunings += 1
        await self._prune(self._bounds_for(size))

    def _bounds_for(self, size: int) -> Bounds:
        return Bounds(limit=None, min_free=max(size, self.bounds.min_free or 0))

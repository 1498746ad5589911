"""Keeps the cache within its bounds, and knows when its disk fails it.

Whoever writes to the cache does so by `Room.add`, and what it writes is counted before it is there:
so the bounds hold at any moment. Where there is no room, what was used least recently goes first,
in the thread that needs it; where nothing is left to go, or the disk can't be written to, that is a
StoreError, and what was to be kept is read past the cache. Blocking code, safe to call from any
thread; the count is shared with other daemons.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from wbfs.model.errors import StoreError, StoreFull
from wbfs.store.bounds.eviction import ROOM_SHARE, Bounds, Pruned, cached_files, free_room, prune
from wbfs.store.bounds.tally import Tally
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.folder import free_bytes, make_folders, store_error

log = logging.getLogger(__name__)

FULL_S = 5.0
"""Seconds before a pruning that found nothing to remove is tried again."""
FAILED_S = 10.0
"""Seconds in which a disk that failed is left alone."""
PRUNINGS = 16
"""Times that one thread makes room for itself, should others take it."""
TURN_S = 30.0
"""Seconds to wait while other threads make room."""

AHEAD_BYTES = 1 << 20
"""Bytes that are counted at a time where pieces are small: what TLS brings has 16 KiB. A scan by
another process misses what of them is not written yet."""
AHEAD_UNLIMITED_BYTES = 16 << 20
"""The same where the cache has no limit, but for what stays free on its disk."""
AHEAD_SHARE = 1 / 64
"""What they are of the limit at most."""

T = TypeVar("T")


class State(StrEnum):
    """How the cache does."""

    CACHING = "caching"
    FULL = "full"
    READ_ONLY = "read-only"
    FAILING = "failing"


_STATES = {
    errno.ENOSPC: State.FULL,
    errno.EDQUOT: State.FULL,
    errno.EROFS: State.READ_ONLY,
}
_NOT_THE_DISKS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Where not all that is `needed` may be here at once: bytes, and whether the disk is why."""

    needed: int
    allowed: int
    is_of_disk: bool


class Room:
    """The room that one cache directory has.

    `trouble` says in words why nothing is cached at the moment, None where it is.
    """

    def __init__(
        self,
        cache_dir: Path,
        sdk_cache: SdkCache,
        bounds: Bounds,
        *,
        on_wasted: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Nothing is counted yet. `on_wasted` is told, in the thread that has
        pruned, how many bytes went that were prefetched and never used."""
        self._cache_dir = cache_dir
        self._sdk_cache = sdk_cache
        self._on_wasted = on_wasted
        self._tally = Tally(cache_dir)
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        # Bytes that are taken, and not yet, or never, to be found in the cache directory.
        self._unseen = 0
        # Of those, what nobody has reserved yet.
        self._ahead = 0
        self._full_until = -math.inf
        self._failed_until = -math.inf
        self._troubled_at = -math.inf
        self.bounds = bounds
        self.state = State.CACHING
        self.trouble: str | None = None

    @property
    def used(self) -> int | None:
        """How many bytes the cache has, as far as this is known; waits for nobody."""
        return self._tally.used

    @property
    def free(self) -> int:
        """How many bytes its disk takes, whatever its limit is. Raises StoreError."""
        return free_room(self._cache_dir, self.bounds)

    @property
    def left(self) -> int:
        """How many bytes may be added before something is removed, as far as this is known."""
        if self.state is not State.CACHING:
            return 0
        try:
            left = self.free
        except StoreError:
            return 0
        if self.bounds.limit is not None:
            used = self.used
            # Before the first count nothing is known.
            left = min(left, 0 if used is None else self.bounds.limit - used)
        return max(0, left)

    @property
    def is_full(self) -> bool:
        """Whether nothing can be added, as was found out a moment ago."""
        return time.monotonic() < max(self._full_until, self._failed_until)

    def add(self, size: int, work: Callable[[], T], *, doing: str) -> T:
        """Do what adds `size` bytes to the cache, and return what it returns; see `run`."""
        self.reserve(size)
        try:
            result = self.run(work, doing=doing, size=size)
        except BaseException:
            self.release(size)
            raise
        self._see(size)
        return result

    def run(self, work: Callable[[], T], *, doing: str, size: int = 0, evicts: bool = True) -> T:
        """Do something to the cache's disk, and return what it returns.

        `work` raises OSError, and is called again where the disk was full and something could be
        removed for `size` bytes, which takes a while; unless it `evicts` nothing. `doing` says
        what it does. Raises StoreError, StoreFull.
        """
        self._refuse_failing()
        try:
            try:
                result = work()
            except OSError as error:
                is_full = _STATES.get(error.errno or 0) is State.FULL
                if not (is_full and evicts and self.evict(size)):
                    raise
                result = work()
        except OSError as error:
            raise self.note_failure(doing, error) from error
        self._note_success()
        return result

    def take(self, size: int) -> None:
        """Count `size` bytes that are about to be written; make room for them if there is none.

        Raises StoreFull where nothing is left that could go, StoreError where the disk fails.
        """
        if not self._fits(size):
            self._make_room(size)

    def reserve(self, size: int) -> None:
        """Take `size` bytes that a scan of the cache doesn't find, until they are released.

        Raises what `take` raises.
        """
        with self._lock:
            if size <= self._ahead:
                self._ahead -= size
                return
        taken = self._step()
        if size > taken or not self._fits(taken):
            self.take(size)
            taken = size
        with self._lock:
            self._unseen += taken
            self._ahead += taken - size

    def _step(self) -> int:
        limit = self.bounds.limit
        if limit is None:
            return AHEAD_UNLIMITED_BYTES
        return min(AHEAD_BYTES, int(limit * AHEAD_SHARE))

    def release(self, size: int) -> None:
        """Give back what was reserved."""
        self._see(size)
        self.give_back(size)

    def _see(self, size: int) -> None:
        """Note that reserved bytes can be found by now, or are not to be there."""
        with self._lock:
            self._unseen -= size

    def give_back(self, size: int) -> None:
        """Note that `size` bytes that were taken are not there, or no longer."""
        with self._tally.locked() as numbers:
            if numbers.used is not None:
                numbers.used -= size

    def note_failure(self, doing: str, error: OSError) -> StoreError:
        """Take note of an error of the cache's disk; return it in words."""
        failure = store_error(doing, error)
        number = error.errno or 0
        if number not in _NOT_THE_DISKS:
            state = _STATES.get(number, State.FAILING)
            if state is State.FAILING:
                self._failed_until = time.monotonic() + FAILED_S
            self._note_trouble(state, str(failure))
        return failure

    def count(self) -> None:
        """Count what the cache has, and remove what is too much. It may take a while."""
        try:
            self._count()
            self.take(0)
        except StoreError as error:
            log.info("the cache %s is not counted: %s", self._cache_dir, error)

    def prune(self) -> Pruned:
        """Remove what is beyond the bounds, and no more. Raises StoreError."""
        with self._one_at_a_time():
            return self._prune(0, spare=False)

    def make_beside(self, held: int, missing: int) -> Shortage | None:
        """Make room on the disk for `missing` bytes beside `held` ones that were used just now.

        Where they can't be here together, say so and remove nothing. Raises StoreError.
        """
        if self.bounds.limit is not None:
            # A pruning goes as far below the limit.
            allowed = int(self.bounds.limit * (1 - ROOM_SHARE))
            if held + missing > allowed:
                return Shortage(needed=held + missing, allowed=allowed, is_of_disk=False)
        free = self.free
        if missing <= free:
            return None
        allowed = max(0, free + self._count() - held)
        if missing > allowed:
            return Shortage(needed=missing, allowed=allowed, is_of_disk=True)
        with self._one_at_a_time():
            self._prune(missing)
        return None

    def _fits(self, size: int) -> bool:
        """Take `size` bytes if they are within the bounds. Raises StoreError where none are."""
        self._refuse_failing()
        disk = self._disk()
        with self._tally.locked() as numbers:
            limit = self.bounds.limit
            if limit is not None and (numbers.used is None or numbers.used + size > limit):
                return False
            if free_bytes(disk) - (self.bounds.min_free or 0) < size:
                return False
            numbers.taken += size
            if numbers.used is not None:
                numbers.used += size
        return True

    def _refuse_failing(self) -> None:
        if time.monotonic() < self._failed_until:
            raise StoreError(f"nothing is cached for now: {self.trouble}")

    def _disk(self) -> os.statvfs_result:
        """Look at the cache's disk, and make the directory where it was removed."""
        try:
            try:
                disk = os.statvfs(self._cache_dir)
            except FileNotFoundError:
                make_folders(self._cache_dir)
                disk = os.statvfs(self._cache_dir)
            if disk.f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        except OSError as error:
            raise self.note_failure(f"add to the cache {self._cache_dir}", error) from error
        return disk

    def _make_room(self, size: int) -> None:
        """Take `size` bytes once there is room. Raises StoreFull, StoreError."""
        if time.monotonic() >= self._full_until:
            with self._one_at_a_time():
                if self.bounds.limit is not None and self.used is None:
                    self._count()
                if self._fits(size):
                    return
                if time.monotonic() >= self._full_until:
                    # Others may be faster to take what becomes free.
                    for _ in range(PRUNINGS):
                        pruned = self._prune(size)
                        if self._fits(size):
                            return
                        if pruned.still_over and not pruned.removed_files:
                            break
                    self._full_until = time.monotonic() + FULL_S
        full = StoreFull(
            f"there is no room in the cache {self._cache_dir}, and all that is left of it is in"
            " use: free space, raise --cache-size, lower --min-free, or use --cache-dir"
        )
        self._note_trouble(State.FULL, str(full))
        raise full

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=TURN_S):
            raise StoreFull(f"making room in the cache {self._cache_dir} takes too long")
        try:
            yield
        finally:
            self._turn.release()

    def evict(self, size: int = 0) -> bool:
        """Remove something for `size` bytes: the disk said that it is full, be it by a quota.

        Return whether there was anything. Raises StoreError.
        """
        if time.monotonic() < self._full_until:
            return False
        with self._one_at_a_time():
            pruned = self._prune(size, is_full=True)
            if not pruned.removed_files:
                self._full_until = time.monotonic() + FULL_S
            return pruned.removed_files > 0

    def _prune(self, size: int, *, is_full: bool = False, spare: bool = True) -> Pruned:
        taken = self._taken()
        with self._lock:
            need = size + self._unseen
        pruned = prune(
            self._cache_dir,
            self.bounds,
            self._sdk_cache,
            need=need,
            is_full=is_full,
            spare=spare,
        )
        self._set_used(pruned.kept, taken)
        if pruned.removed_files:
            log.info(
                "removed %d files, %d bytes from the cache", pruned.removed_files, pruned.removed
            )
        self._on_wasted(pruned.unread)
        return pruned

    def _count(self) -> int:
        taken = self._taken()
        used = sum(file.size for file in cached_files(self._cache_dir))
        self._set_used(used, taken)
        return used

    def _taken(self) -> int:
        """Return all that was ever taken but for what a scan that begins now can't find."""
        with self._lock:
            unseen = self._unseen
        with self._tally.locked() as numbers:
            return numbers.taken - unseen

    def _set_used(self, counted: int, taken: int) -> None:
        """Note what a scan has counted; what was taken since it began it may not have seen."""
        with self._tally.locked() as numbers:
            numbers.used = counted + max(0, numbers.taken - taken)

    def _note_trouble(self, state: State, text: str) -> None:
        with self._lock:
            self._troubled_at = time.monotonic()
            is_new, self.state, self.trouble = self.state is not state, state, text
        if is_new:
            log.warning("files are read past the cache: %s", text)

    def _note_success(self) -> None:
        if self.state is State.CACHING:
            return
        with self._lock:
            # Not at each of the small files that still find room beside a large one.
            if self.state is State.FULL and time.monotonic() < self._troubled_at + FULL_S:
                return
            self.state, self.trouble = State.CACHING, None
        log.warning("the cache %s is used again", self._cache_dir)

"""A large file's digest, taken while the rest of its bytes comes. Trio thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from wbfs.fetch.large.generation import Generation
from wbfs.fetch.resources import Resources
from wbfs.fetch.work.offload import Kind
from wbfs.store.content.large_blob import LargeBlob

HASHED_AT_LEAST, HASHED_AT_MOST = 4 << 20, 32 << 20
"""Bytes that are worth a thread's while, and after which it says how far it is."""
MOST_UNHASHED = 128 << 20
"""Bytes that have come and are not in the digest yet before no more are asked for, where somebody
waits for all: the digest ends last, and what fetches takes the processor from it. With two
processors 1 GiB was got in 2.61 s, and in 2.85 without this; with half as much in 2.67, and 0.3 s
later over a link."""
KEEP_UP_S = 1.0
"""Seconds for which more requests wait for a digest that does not go on."""


class HashAhead:
    """How far the digest of one content is.

    `blob` has the bytes, None while the store can't hold any. Those before `stop` are in the digest
    and never written again.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.blob: LargeBlob | None = None
        self.stop = 0
        self._more = trio.Event()
        # Where it was when it did not go on for a while.
        self._stuck_at: int | None = None

    def begin(self, blob: LargeBlob | None) -> None:
        """Begin with the first byte of a generation."""
        self.blob = blob
        self.stop = 0

    async def take(self, generation: Generation) -> None:
        """Take what is settled into the digest, until there is little more. Raises StoreError."""
        blob = generation.blob
        try:
            # More has come meanwhile, be it between two requests' ends, which come many at a time.
            while (settled := generation.settled_stop) >= self.stop + HASHED_AT_LEAST:
                stop = min(settled, self.stop + HASHED_AT_MOST)
                await self._resources.offload.run(Kind.CHECK, partial(blob.check_ahead, stop))
                self.stop = stop
                self._tell()
        finally:
            self._tell()

    def _tell(self) -> None:
        self._more.set()
        self._more = trio.Event()

    async def keep_up(
        self, generation: Generation, had: int, *, is_taken: Callable[[], bool]
    ) -> None:
        """Wait while the digest is far behind what was fetched beside the `had` bytes before.

        Not where none `is_taken`, nor for long where it does not go on: others may have its thread,
        or the disk hangs.
        """

        def is_behind() -> bool:
            return is_taken() and generation.held.total - had > self.stop + MOST_UNHASHED

        if self.stop == self._stuck_at:
            return
        with trio.move_on_after(KEEP_UP_S) as waiting:
            while is_behind():
                await self._more.wait()
        if waiting.cancelled_caught:
            self._stuck_at = self.stop

    async def more(self, blob: LargeBlob | None, stop: int) -> tuple[LargeBlob, int]:
        """Wait until the digest is past `stop`, or of another generation than `blob`.

        Return where it is. That may never be: for whoever has a deadline.
        """
        while self.blob is None or self.stop <= (stop if self.blob is blob else 0):
            await self._more.wait()
        return self.blob, self.stop

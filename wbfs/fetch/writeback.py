"""Has sealed blobs written to disk for good a moment after they were sealed. Trio thread."""

from __future__ import annotations

import logging

import trio

from wbfs.fetch.work.background import Background
from wbfs.fetch.work.offload import Kind, Offload
from wbfs.model.errors import StoreError
from wbfs.store.content.blobs import Blobs

log = logging.getLogger(__name__)

AFTER_S = 1.0
"""Seconds in which more blobs may come to be written with the first."""


class Writeback:
    """One writing at a time, for all blobs that were sealed by then."""

    def __init__(self, *, background: Background, offload: Offload, blobs: Blobs) -> None:
        self._background = background
        self._offload = offload
        self._blobs = blobs
        self._is_due = False
        self._one_at_a_time = trio.Lock()

    def due(self) -> None:
        """Note that a blob was sealed."""
        if not self._is_due:
            self._is_due = True
            self._background.spawn(self._write, name="write the cache to disk")

    async def _write(self) -> None:
        await trio.sleep(AFTER_S)
        try:
            # A slow disk keeps no more than one thread waiting.
            async with self._one_at_a_time:
                self._is_due = False
                await self._offload.run(Kind.SYNC, self._blobs.flush)
        except StoreError as error:
            # They are checked again by the next mount, that is all.
            log.info("%s", error)

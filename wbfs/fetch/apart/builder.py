"""Where manifests become tables: small ones in the thread that asks, large ones in a process.

Decoding keeps Python's lock, and leaves memory behind, in proportion to a manifest's size: a large
one would slow down the whole filesystem. Blocking code, run in worker threads of trio's.
"""

from __future__ import annotations

from functools import partial

import trio

from wbfs.fetch.apart import tables
from wbfs.fetch.apart.process import Lost, NotStarted, Process
from wbfs.fetch.apart.tables import Build, Done, FillIn
from wbfs.fetch.work.background import Background
from wbfs.model.errors import StoreError

LARGE_BYTES = 2 << 20
"""Size of a manifest from which on a process is started: that takes as long as decoding so much."""
PATIENCE_S = 60.0
SLOWEST_BYTES_PER_S = 1 << 20
"""Seconds that a process may take, and what it does at the least of a manifest after those."""


class Builder:
    """Obeys orders, in one process at a time: each may take hundreds of megabytes."""

    def __init__(self, background: Background) -> None:
        self._process = Process(background, tables.PROGRAM)

    def obey(self, order: Build | FillIn, *, size: int) -> Done:
        """Do what is ordered of a manifest of `size` bytes.

        Raises RemoteProtocolError, StoreError, StoreFull.
        """
        if size < LARGE_BYTES:
            return tables.obey(order)
        timeout_s = PATIENCE_S + size / SLOWEST_BYTES_PER_S
        ask = partial(self._process.result, order, timeout_s=timeout_s)
        why = ""
        # What was changed in part can't be changed once more.
        for _ in range(2 if isinstance(order, Build) else 1):
            try:
                return trio.from_thread.run(ask)
            except (NotStarted, PermissionError):
                # Where Python has capabilities, no process may look at another's descriptors.
                return tables.obey(order)
            except (Lost, MemoryError) as error:
                why = str(error) or "out of memory"
        raise StoreError(f"can't make the manifest's table: {why}")

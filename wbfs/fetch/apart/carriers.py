"""How many processes apart fetch files, and those that fetch large ones. Trio thread."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import trio

from wbfs.fetch.apart import large_files
from wbfs.fetch.apart.large_files import Order
from wbfs.fetch.apart.pool import Pool
from wbfs.fetch.apart.process import Lost
from wbfs.fetch.apart.small_files import Setup
from wbfs.fetch.apart.spares import Spares
from wbfs.fetch.work.background import Background

log = logging.getLogger(__name__)

FETCHED_BYTES_PER_S = 2.0e9
"""What one process fetches, of TLS and into the store, with a processor for itself: 0.5 s of it for
each GiB."""
SERVED_BYTES_PER_S = 2.9e9
"""What one mount gives the kernel, which one thread does: 0.37 s of a processor for each GiB."""


def carriers_for(processors: int) -> int:
    """Return how many processes fetch large files on a machine with so many processors.

    As many as keep the one thread busy that serves the mount, and no more than there are
    processors. With one processor there is none: they would only take turns.
    """
    enough = -(-SERVED_BYTES_PER_S // FETCHED_BYTES_PER_S)
    return min(processors, int(enough)) if processors > 1 else 0


def small_carriers_for(processors: int) -> int:
    """Return how many processes fetch small files on a machine with so many processors.

    One has a file for each 0.4 ms of a processor that it has for itself, as the mount's own process
    has to answer for it: two share what is left better than one does.
    """
    return min(processors, 2)


def spares_for(processors: int) -> int:
    """Return how many processes a mount makes at its start: those of both kinds."""
    return carriers_for(processors) + small_carriers_for(processors)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Carriers:
    """The processes of one session."""

    def __init__(self, background: Background, setup: Setup, spares: Spares) -> None:
        """Start none before there is an order.

        None is there where there were no spares, or where a gateway has the files, near by.
        """
        count = 0 if setup.blob_gateway or not spares.made else carriers_for(processors())
        self._pool = Pool(background, large_files.program(setup), spares, count=count)

    @property
    def has_room(self) -> bool:
        """Whether one of them would begin with an order at once."""
        return self._pool.has_room

    async def fetch(
        self,
        order: Order,
        *,
        timeout_s: float,
        on_position: Callable[[int], None],
        on_order: Callable[[Callable[[int], object]], object],
    ) -> None:
        """Have an extent fetched, as far as a process comes with it.

        `on_position` is told how far it is, and `on_order` what to call where it is to end earlier.
        What went wrong is for whoever goes on to find out.
        """
        ended = trio.Event()

        def done(_: None, error: Exception | None) -> None:
            if error is not None:
                log.info("%s is fetched on by the mount itself: %s", order.path, error)
            ended.set()

        try:
            _, wish = self._pool.order(order, done, timeout_s=timeout_s, on_news=on_position)
        except Lost as error:
            log.debug("%s is fetched by the mount itself: %s", order.path, error)
            return
        on_order(wish)
        await ended.wait()

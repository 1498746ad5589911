"""Fetches small files into the store, as the program of a process of its own.

    python -m wbfs.fetch.apart.carrying

A request costs Python half a millisecond, and it can do one thing at a time: in the filesystem's
process, many requests would hold up whoever waits for an answer there. The program reads a `Setup`
and then lists of `Order`s from its standard input, each a line of JSON, and prints a `Carried` for
each order. It is given signed URLs, and no key. It ends when its input does: then whoever started
it is gone, or needs it no more.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

import msgspec

from wbfs.fetch.transfer import fetch_whole, stretched
from wbfs.model.entries import Entry
from wbfs.model.errors import RemoteError, WbfsError
from wbfs.remote.bytes import ByteStream, Location, open_stream
from wbfs.remote.references import References
from wbfs.remote.transport import Deadline, Transport
from wbfs.store.blobs import Blobs
from wbfs.store.eviction import Bounds
from wbfs.store.partial import PartialBlobs
from wbfs.store.room import Room
from wbfs.store.sdk_cache import SdkCache

THREADS = 32
"""Files that are on their way at the same time."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What all orders have in common; `file_mode` is that of new blobs.

    `cache_size` and `min_free` are the cache's bounds in bytes, `private_references` and
    `file_references` where references may lead.
    """

    cache_dir: str
    cache_size: int | None
    min_free: int | None
    sdk_cache_dir: str
    file_mode: int
    server: str
    extra_headers: Mapping[str, str]
    proxies: Mapping[str, str]
    verify: bool | str
    private_references: bool
    file_references: bool
    timeout_s: float


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A file to fetch. Without a location it is a reference, and its bytes are where that says.

    `path` is for messages; what `is_unread` is the first to be evicted, until it is opened.
    """

    number: int
    path: str
    entry: Entry
    location: Location | None
    is_unread: bool


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """An order was carried out; or the class's name and the text of the WbfsError that came up."""

    number: int
    error: str = ""
    text: str = ""


class _Carrying:
    def __init__(self, setup: Setup) -> None:
        self._timeout_s = setup.timeout_s
        self._transport = Transport(
            server=setup.server,
            extra_headers=setup.extra_headers,
            proxies=setup.proxies,
            verify=setup.verify,
            private_references=setup.private_references,
        )
        self._references = References(self._transport, files_allowed=setup.file_references)
        sdk_cache = SdkCache(Path(setup.sdk_cache_dir))
        cache_dir = Path(setup.cache_dir)
        bounds = Bounds(limit=setup.cache_size, min_free=setup.min_free)
        room = Room(cache_dir, sdk_cache, bounds)
        blobs = Blobs(cache_dir, sdk_cache, room=room, file_mode=setup.file_mode)
        self._partial = PartialBlobs(cache_dir, blobs)
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._print_lock = threading.Lock()
        for _ in range(THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def add(self, orders: list[Order]) -> None:
        for order in orders:
            self._orders.put(order)

    def _work(self) -> NoReturn:
        while True:
            order = self._orders.get()
            try:
                self._fetch(order)
                carried = Carried(number=order.number)
            except WbfsError as error:
                carried = Carried(number=order.number, error=type(error).__name__, text=str(error))
            except Exception as error:  # noqa: BLE001 - each order has an answer
                text = f"a defect in the process that fetches small files: {type(error).__name__}"
                carried = Carried(number=order.number, error=RemoteError.__name__, text=text)
            line = msgspec.json.encode(carried) + b"\n"
            try:
                with self._print_lock:
                    os.write(sys.stdout.fileno(), line)
            except BrokenPipeError:
                # Whoever started it was killed.
                os._exit(1)

    def _fetch(self, order: Order) -> None:
        def open_from(
            start: int, stop: int | None, deadline: Deadline
        ) -> AbstractContextManager[ByteStream]:
            if order.location is not None:
                return open_stream(
                    self._transport, order.location, start=start, stop=stop, deadline=deadline
                )
            reference = order.entry.reference
            assert reference is not None
            handler = self._references.for_uri(reference.uri)
            return handler.open(reference, start=start, stop=stop, deadline=deadline)

        fetch_whole(
            open_from,
            self._partial.small,
            order.entry,
            path=order.path,
            deadline=Deadline.after(stretched(self._timeout_s, order.entry.size)),
            is_unread=order.is_unread,
        )


def main() -> None:
    """Carry out orders for as long as there may be any."""
    os.umask(0o077)
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)
    decoder = msgspec.json.Decoder(list[Order])
    carrying = _Carrying(setup)
    for line in sys.stdin.buffer:
        carrying.add(decoder.decode(line))
    # Threads may wait for slow servers; nobody waits for them.
    os._exit(0)


if __name__ == "__main__":
    main()

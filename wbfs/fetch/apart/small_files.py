"""Fetches small files into the store: what a process apart does for `Prefetch`.

Fetching one takes Python a third of a millisecond, and it can do one thing at a time: in the
filesystem's process, that would hold up whoever waits for an answer there. The process is given
signed URLs, and no key. What is ordinary goes by its `Lane`, the rest by a thread for each file.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wbfs.fetch.apart.worker import Program
from wbfs.fetch.small.lane import Answer, Lane
from wbfs.fetch.small.orders import Done, Order
from wbfs.fetch.transfer import deadline_of, fetch_whole
from wbfs.remote.http.bytes import ByteStream, Location, open_stream
from wbfs.remote.http.gateway import Gateway
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References
from wbfs.store.bounds.eviction import Bounds
from wbfs.store.bounds.room import Room
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.partial import PartialBlobs
from wbfs.store.content.sdk_cache import SdkCache

THREADS = 48
"""Files that are on their way at the same time, to all processes together: over 20 ms, 2,400 in a
second."""
DESCRIPTORS = 4
"""What may be open for each of them, in its process: a connection, and the file twice."""
OTHER_DESCRIPTORS = 16
IDLE_S = 30.0
"""Seconds without an order after which the process is ended, and its memory given back."""
SILENT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all orders have in common; `file_mode` is that of new blobs.

    `blob_gateway` is the URL of a gateway that W&B's own files are asked for at first, or empty.
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
    verify: bool
    private_references: bool
    file_references: bool
    blob_gateway: str
    timeout_s: float


def program(setup: Setup, *, processes: int) -> Program[Order, Done]:
    """Return what each of so many processes is to be started with."""
    threads = THREADS // processes
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY:
        threads = max(1, min(threads, (allowed - OTHER_DESCRIPTORS) // DESCRIPTORS))
    return Program(
        name="small files",
        prepare=partial(SmallFiles, setup, width=threads),
        lane=SmallFiles.lane,
        threads=threads,
        silent_s=SILENT_S,
        idle_s=IDLE_S,
    )


class Shop:
    """What a process that fetches works with: its way to the servers, and the cache's room."""

    def __init__(self, setup: Setup) -> None:
        """Open the store."""
        self.timeout_s = setup.timeout_s
        self.transport = Transport(
            server=setup.server,
            extra_headers=setup.extra_headers,
            proxies=setup.proxies,
            verify=setup.verify,
            private_references=setup.private_references,
        )
        self.cache_dir = Path(setup.cache_dir)
        self.sdk_cache = SdkCache(Path(setup.sdk_cache_dir))
        bounds = Bounds(limit=setup.cache_size, min_free=setup.min_free)
        self.room = Room(self.cache_dir, self.sdk_cache, bounds)


class SmallFiles:
    """Fetches what is ordered."""

    def __init__(self, setup: Setup, *, width: int) -> None:
        """Open the store, for `width` files at once. Raises StoreError."""
        shop = Shop(setup)
        self._width = width
        self._timeout_s = setup.timeout_s
        self._transport = shop.transport
        self._references = References(shop.transport, files_allowed=setup.file_references)
        self._gateway = Gateway(setup.blob_gateway, shop.transport)
        self._blobs = Blobs(
            shop.cache_dir, shop.sdk_cache, room=shop.room, file_mode=setup.file_mode
        )
        self._partial = PartialBlobs(shop.cache_dir, self._blobs)

    def lane(
        self, answer: Callable[[list[Answer]], None], leave: Callable[[int, Order], None]
    ) -> Lane:
        """Return what fetches ordinary files, and leaves the others."""
        return Lane(
            self._transport,
            self._blobs,
            self._partial,
            width=self._width,
            timeout_s=self._timeout_s,
            answer=answer,
            leave=leave,
        )

    def __call__(self, order: Order) -> Done:
        """Fetch a file. Raises WbfsError."""
        gateway, blob = self._gateway, order.entry.blob
        sealed, _ = fetch_whole(
            _Opener(self._transport, gateway, self._references, order),
            self._partial.small,
            order.entry,
            path=order.path,
            deadline=deadline_of(self._timeout_s, order.entry.size),
            is_unread=order.is_unread,
            was_wrong=order.was_wrong,
        )
        return Done(
            known=self._blobs.hand_over(sealed),
            by_gateway=gateway.has_brought(blob),
            gateway_trouble=gateway.trouble if order.by_gateway else "",
        )


@dataclass(frozen=True, slots=True)
class _Opener:
    """What asks for the bytes of an order's file."""

    transport: Transport
    gateway: Gateway
    references: References
    order: Order

    def __call__(
        self, *, start: int, stop: int | None, deadline: Deadline
    ) -> AbstractContextManager[ByteStream]:
        """Ask for them."""
        entry = self.order.entry
        if not self.order.url:
            assert entry.reference is not None
            handler = self.references.for_uri(entry.reference.uri)
            return handler.open(entry.reference, start=start, stop=stop, deadline=deadline)
        location = Location(url=self.order.url)
        if not self.order.by_gateway:
            return open_stream(self.transport, location, start=start, stop=stop, deadline=deadline)
        return self.gateway.open(entry.blob, location, start=start, stop=stop, deadline=deadline)

    def distrust(self) -> None:
        """Take note that what came was wrong."""
        self.gateway.distrust(self.order.entry.blob)

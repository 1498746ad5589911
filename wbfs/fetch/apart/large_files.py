"""Fetches extents of large files into the store: what processes apart do for `Carriers`.

Each 16 KiB of TLS take Python's lock once: threads of the filesystem's own process would fight with
it, and with one another, for that. A process does the easy part: what it fails at is gone on with
where that is done otherwise. It is given signed URLs, and no key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock

from wbfs.fetch.apart.small_files import Setup, Shop
from wbfs.fetch.apart.worker import Program, Talk
from wbfs.fetch.transfer import deadline_of, transfer
from wbfs.model.entries import Entry
from wbfs.model.errors import UrlExpired, WbfsError
from wbfs.remote.http.bodies import Piece
from wbfs.remote.http.bytes import ByteStream, Location, open_stream
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.store.content.large_blob import FileOf
from wbfs.store.content.writer_apart import WriterApart

THREADS = 8
"""Extents that are on their way at the same time to one process."""
IDLE_S = 1e9
"""Seconds without an order after which the process is ended: it would be missed when it is."""
SILENT_S = 5.0
"""Readers wait for what it does; ended by mistake, it costs them little."""


class NotApart(WbfsError):
    """Only who gives orders can go on: with a fresh URL, or with all of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An extent to fetch: of which entry, from where, and into which file.

    `path` is for messages. Of news there are the positions that were come to; what may be wished is
    another `stop`.
    """

    path: str
    entry: Entry
    location: Location
    file: FileOf
    start: int
    stop: int


def program(setup: Setup) -> Program[Order, None]:
    """Return what a process is to be started with."""
    return Program(
        name="large files",
        prepare=partial(LargeFiles, setup),
        talks=True,
        threads=THREADS,
        silent_s=SILENT_S,
        idle_s=IDLE_S,
    )


class LargeFiles:
    """Fetches what is ordered."""

    def __init__(self, setup: Setup) -> None:
        """Open the store."""
        self._shop = Shop(setup)
        self._writing = Lock()

    def __call__(self, order: Order, talk: Talk) -> None:
        """Fetch an extent, and tell how far it is. Raises WbfsError."""
        size = order.stop - order.start
        with WriterApart(order.file, self._shop.room, self._writing) as writer:

            def write(offset: int, piece: Piece) -> None:
                writer.write(offset, piece)
                talk.tell(offset + len(piece))

            transfer(
                _Opener(self._shop.transport, order.location),
                order.entry,
                write,
                path=order.path,
                start=order.start,
                stop=lambda: order.stop if talk.wish is None else talk.wish,
                on_whole=_refuse_whole,
                deadline=deadline_of(self._shop.timeout_s, size),
            )


@dataclass(frozen=True, slots=True)
class _Opener:
    """What asks for the bytes of an order's file."""

    transport: Transport
    location: Location

    @contextmanager
    def __call__(self, *, start: int, stop: int | None, deadline: Deadline) -> Iterator[ByteStream]:
        """Ask for them. Raises NotApart where the URL has expired."""
        try:
            with open_stream(
                self.transport, self.location, start=start, stop=stop, deadline=deadline
            ) as stream:
                yield stream
        except UrlExpired as error:
            raise NotApart(str(error)) from error

    def distrust(self) -> None:
        """Do nothing: whoever checks them asks elsewhere."""


def _refuse_whole(position: int) -> int:
    raise NotApart("the server sends all of the file")

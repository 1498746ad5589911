"""One request for an extent of a large file, and how its bytes come: by a process apart, or here.

Trio thread, but for what runs in `Offload`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from wbfs.fetch.apart.large_files import Order
from wbfs.fetch.resources import Resources
from wbfs.fetch.transfer import deadline_of, stretched, transfer
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.offload import Kind
from wbfs.model.errors import RemoteError, StoreError, WbfsError
from wbfs.remote.http.bodies import Piece
from wbfs.store.content.large_blob import LargeBlob

APART_BYTES = 4 << 20
"""Bytes of a request that is worth a process's while: a connection of its own, and messages."""
AMPLE_BYTES = 512 << 20
"""Bytes that the cache must have left for processes to fetch: several that write at the same time
don't keep to its bounds to the byte."""


@dataclass(eq=False, slots=True)
class Opening:
    """One open handle. The kernel keeps the pages that are read through it for `inode`."""

    wanted: Wanted
    inode: int
    closed: bool = False


@dataclass(eq=False, slots=True)
class Flight:
    """A request under way: of [start, stop), what is before `position` has come.

    Whoever brings the bytes raises `position`, of which the trio thread has seen `noted`; the trio
    thread may lower `stop`, by `end_at`. `ahead_for` is None where somebody waits for it. One that
    `goes_on` with what was slow to come is brought here.
    """

    start: int
    stop: int
    position: int
    noted: int
    ahead_for: Opening | None
    goes_on: bool = False
    landed: trio.Event = field(default_factory=trio.Event)
    # What waiters are told if the mount ends before it lands.
    error: WbfsError | None = field(
        default_factory=lambda: RemoteError("the mount is being taken down")
    )
    waiters: list[tuple[int, trio.Event]] = field(default_factory=list)
    # Tells a process apart where it is to end.
    tell_stop: Callable[[int], object] = lambda stop: None

    def end_at(self, stop: int) -> None:
        """Have it bring no more than what is before `stop`, but for what is just being written."""
        self.stop = stop
        self.tell_stop(stop)


async def bring(
    resources: Resources,
    blob: LargeBlob,
    wanted: Wanted,
    flight: Flight,
    *,
    size: int,
    note: Callable[[], object],
    on_whole: Callable[[int], int],
) -> None:
    """Have a flight's bytes written to the store; `note` is called when more have come.

    `size` is how many may come, and `on_whole` what it is to `transfer`. Raises what that raises.
    """
    if flight.stop - flight.start >= APART_BYTES and not flight.goes_on:
        await _bring_apart(resources, blob, wanted, flight, note)
    if flight.start < flight.stop <= flight.position:
        return

    def write(offset: int, piece: Piece) -> None:
        blob.write(offset, piece)
        flight.position = offset + len(piece)
        resources.offload.post(note)

    def fetch() -> None:
        transfer(
            resources.opener(wanted),
            wanted.entry,
            write,
            path=wanted.path,
            start=flight.position,
            stop=lambda: flight.stop,
            on_whole=on_whole,
            # No time runs against what waits for a thread.
            deadline=deadline_of(resources.timeout_s, size),
        )

    kind = Kind.AHEAD if flight.ahead_for else Kind.DATA
    await resources.fetch(kind, wanted, fetch, deadline=deadline_of(resources.timeout_s, size))


async def _bring_apart(
    resources: Resources,
    blob: LargeBlob,
    wanted: Wanted,
    flight: Flight,
    note: Callable[[], object],
) -> None:
    """Have a process apart bring what it can, of a server that is known to send parts."""
    sources, version, entry = resources.sources, wanted.version, wanted.entry
    if not resources.carriers.has_room or resources.room.left < AMPLE_BYTES:
        return
    location = sources.location(version, entry)
    if location is None or not resources.ranges.sends_parts(sources.origin(version, entry)):
        return
    try:
        file = blob.file
    except StoreError:
        # Who writes to it finds out what is the matter.
        return
    order = Order(
        path=wanted.path,
        entry=entry,
        location=location,
        file=file,
        start=flight.start,
        stop=flight.stop,
    )

    def come_to(position: int) -> None:
        # It may not have heard yet that it is to end.
        flight.position = min(position, flight.stop)
        note()

    def on_order(wish: Callable[[int], object]) -> None:
        flight.tell_stop = wish

    await resources.carriers.fetch(
        order,
        timeout_s=stretched(resources.timeout_s, flight.stop - flight.start),
        on_position=come_to,
        on_order=on_order,
    )

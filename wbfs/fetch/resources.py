"""What all fetches of one session work with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from wbfs.fetch.apart.carriers import Carriers
from wbfs.fetch.apart.small_files import Setup
from wbfs.fetch.apart.spares import Spares
from wbfs.fetch.counters import Counters
from wbfs.fetch.journal import Journal
from wbfs.fetch.large.ranges import RangeHabits
from wbfs.fetch.sources import Sources
from wbfs.fetch.transfer import Opener
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.background import Background
from wbfs.fetch.work.offload import Kind, Offload
from wbfs.fetch.writeback import Writeback
from wbfs.remote.http.bytes import ByteStream
from wbfs.remote.http.transport import Deadline
from wbfs.store.bounds.room import Room
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.partial import PartialBlobs
from wbfs.store.content.sealed import read_fully, read_in_memory
from wbfs.store.known.sizes import KnownSizes

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOpener:
    """What asks for the bytes of one file; `is_checked` is what it is to `Sources.open`."""

    sources: Sources
    wanted: Wanted
    is_checked: bool

    def __call__(
        self, *, start: int, stop: int | None, deadline: Deadline
    ) -> AbstractContextManager[ByteStream]:
        """Ask for them."""
        version, entry = self.wanted.version, self.wanted.entry
        return self.sources.open(
            version,
            entry,
            start=start,
            stop=stop,
            deadline=deadline,
            is_checked=self.is_checked,
        )

    def distrust(self) -> None:
        """Take note that what came was wrong."""
        self.sources.gateway.distrust(self.wanted.entry.blob)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """`timeout_s` is how long a reader waits for a server that sends nothing."""

    background: Background
    offload: Offload
    sources: Sources
    blobs: Blobs
    partial: PartialBlobs
    room: Room
    known_sizes: KnownSizes
    writeback: Writeback
    timeout_s: float
    setup: Setup
    counters: Counters
    carriers: Carriers
    spares: Spares
    ranges: RangeHabits = field(default_factory=RangeHabits)
    journal: Journal = field(default_factory=Journal)

    async def fetch(
        self,
        kind: Kind,
        wanted: Wanted,
        function: Callable[[], T],
        *,
        deadline: Deadline,
        to_the_end: bool = False,
    ) -> T:
        """Run what asks for a file's bytes in a thread of that kind, for the server that has them.

        Which server that is, a signed URL tells: it is asked for, by the deadline, where there is
        none. `to_the_end` is what it is to `Offload.run`. Raises what that and `function` raise.
        """
        version, entry = wanted.version, wanted.entry
        origin = self.sources.origin(version, entry)
        if origin is None:
            await self.offload.run(
                Kind.URLS, lambda: self.sources.prepare(version, [entry], deadline=deadline)
            )
            # Where the server has given none, the function finds out what is the matter.
            origin = self.sources.origin(version, entry) or ""
        return await self.offload.run(kind, function, origin=origin, to_the_end=to_the_end)

    def opener(self, wanted: Wanted, *, is_checked: bool = True) -> Opener:
        """Return what asks for the bytes of a file, all of which are checked, or else aren't."""
        return FileOpener(sources=self.sources, wanted=wanted, is_checked=is_checked)

    async def pread(self, fd: int, offset: int, size: int) -> memoryview:
        """Read exactly `size` bytes of a cached file. Raises StoreError."""
        data = await self.read(partial(read_in_memory, fd), partial(read_fully, fd), offset, size)
        self.counters.served_bytes += size
        return data

    async def read(
        self,
        in_memory: Callable[[memoryview, int], int],
        fully: Callable[[memoryview, int], None],
        offset: int,
        size: int,
    ) -> memoryview:
        """Read exactly `size` bytes that are here: at once if the kernel has them in memory.

        `in_memory` reads what it has, and returns how much; `fully` waits for the disk, in a
        thread. Raises StoreError.
        """
        buffer = memoryview(bytearray(size))
        done = in_memory(buffer, offset)
        self.counters.from_memory_bytes += done
        if done < size:
            rest = buffer[done:]
            await self.offload.run(Kind.DISK, lambda: fully(rest, offset + done))
        return buffer

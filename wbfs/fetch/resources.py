"""What all fetches of one session work with."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from wbfs.fetch.counters import Counters
from wbfs.fetch.offload import Kind, Offload
from wbfs.fetch.room import Room
from wbfs.fetch.sources import Sources
from wbfs.fetch.writeback import Writeback
from wbfs.model.entries import Entry, Version
from wbfs.store.blobs import Blobs, read_fully, read_in_memory
from wbfs.store.partial import PartialBlobs


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose bytes are asked for: of files with the same content, the one that was opened."""

    version: Version
    entry: Entry

    @property
    def path(self) -> str:
        """The file's path as the SDK writes it."""
        return f"{self.version.path}/{self.entry.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """`timeout_s` is how long a reader waits for a server that sends nothing."""

    nursery: trio.Nursery
    offload: Offload
    sources: Sources
    blobs: Blobs
    partial: PartialBlobs
    room: Room
    writeback: Writeback
    timeout_s: float
    counters: Counters = field(default_factory=Counters)

    async def pread(self, fd: int, offset: int, size: int) -> memoryview:
        """Read exactly `size` bytes of a cached file: at once if the kernel has them in memory."""
        buffer = memoryview(bytearray(size))
        done = read_in_memory(fd, buffer, offset)
        if done < size:
            rest = buffer[done:]
            await self.offload.run(Kind.DISK, lambda: read_fully(fd, rest, offset + done))
        self.counters.served_bytes += size
        return buffer

"""Sizes that origins told: remembered on the disk, and only for as long as they are true."""

from __future__ import annotations

from pathlib import Path

import trio
from fetching import resources
from tables import VERSION

from wbfs.fetch.resources import Resources
from wbfs.fetch.sizes import Sizes
from wbfs.fetch.work.background import Background
from wbfs.model.entries import Entry, Reference, Version
from wbfs.remote.http.transport import Deadline

BEFORE, NOW = 100, 104
REFERENCE = Reference(uri="https://store.example/file", token="", etag="")
ENTRY = Entry(path="file", size=None, digest=None, reference=REFERENCE)


class Origin:
    """A server that tells a size, and how often it was asked."""

    asked = 0

    def origin(self, version: Version, entry: Entry) -> str:
        return "store.example"

    def size(self, version: Version, entry: Entry, *, deadline: Deadline) -> int:
        self.asked += 1
        return NOW


def sizes_of(used: Resources) -> Sizes:
    return Sizes(used, None)  # type: ignore[arg-type]


async def test_one_that_is_no_longer_true_is_not_found_on_the_disk(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    origin = Origin()
    used = resources(Background(nursery), tmp_path, origin, timeout_s=100)
    sizes = sizes_of(used)
    sizes.learn(ENTRY, BEFORE)
    await sizes.close()
    # It is there for a later mount.
    assert await sizes_of(used).ask(VERSION, ENTRY) == BEFORE
    assert origin.asked == 0
    # At once: it takes a moment until the disk is told.
    sizes.forget(ENTRY)
    assert await sizes.ask(VERSION, ENTRY) == NOW
    assert origin.asked == 1
    await sizes.close()
    assert await sizes_of(used).ask(VERSION, ENTRY) == NOW
    assert origin.asked == 1


async def test_what_is_read_while_it_is_forgotten_is_not_believed(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    origin = Origin()
    used = resources(Background(nursery), tmp_path, origin, timeout_s=100)
    before, sizes = sizes_of(used), sizes_of(used)
    before.learn(ENTRY, BEFORE)
    await before.close()
    async with trio.open_nursery() as asking:
        # It reads from the disk in a thread.
        asking.start_soon(sizes.ask, VERSION, ENTRY)
        await trio.sleep(0)
        await trio.sleep(0)
        sizes.forget(ENTRY)
    assert await sizes.ask(VERSION, ENTRY) == NOW

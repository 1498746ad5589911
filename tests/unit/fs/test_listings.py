"""A listing that grows while it is read: each name once, and no failure that looks like the end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from wbfs.fs.above.questions import Child
from wbfs.fs.listings import Listing
from wbfs.fs.nodes import EntityDirectory
from wbfs.model.errors import AccessDenied, Defect, RemoteError, RemoteTimeout


def named(*names: str) -> list[tuple[str, Child]]:
    return [(name, EntityDirectory(name)) for name in names]


async def read(listing: Listing, pause_s: float = 0.0) -> list[str]:
    """Read a listing to its end, with a pause after each answer."""
    found: list[str] = []
    while children := await listing.after(len(found)):
        found += (name for name, _ in children)
        await trio.sleep(pause_s)
    return found


async def test_readers_see_each_name_once(autojump_clock: object) -> None:
    listing = Listing(named("a", "b"), 5.0, more_within_s=60)
    results: list[list[str]] = []

    async def reader(pause_s: float) -> None:
        results.append(await read(listing, pause_s))

    async with trio.open_nursery() as nursery:
        for pause_s in (0.0, 0.7, 5.0, 50.0):
            nursery.start_soon(reader, pause_s)
        with listing.filling("list them"):
            for name in "cdef":
                await trio.sleep(1)
                listing.add(named(name), 7.0)
                # A page may hold nothing that may be seen.
                listing.add([], 7.0)
            assert listing.is_growing
    assert not listing.is_growing
    assert listing.valid_until == 7.0
    assert results == [list("abcdef")] * 4
    assert await read(listing) == list("abcdef")


async def test_a_failure_comes_after_the_names(autojump_clock: object) -> None:
    listing = Listing(named("a"), 5.0, more_within_s=60)
    caught: list[Exception] = []

    async def reader() -> None:
        assert [name for name, _ in await listing.after(0)] == ["a"]
        with pytest.raises(AccessDenied, match="can't list it: not yours") as error:
            await listing.after(1)
        caught.append(error.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        with listing.filling("list it"):
            raise AccessDenied("not yours")
    assert len(caught) == 1
    assert not listing.is_growing
    with pytest.raises(AccessDenied):
        await read(listing)


async def test_a_defect_reaches_the_readers(autojump_clock: object) -> None:
    listing = Listing([], 5.0, more_within_s=60)
    # Whoever fills it is told too: it is in the background, where defects are noted.
    with pytest.raises(ZeroDivisionError), listing.filling("list it"):
        raise ZeroDivisionError
    with pytest.raises(Defect, match="ZeroDivisionError"):
        await listing.after(0)


async def test_a_reader_gives_up_and_the_listing_goes_on(autojump_clock: object) -> None:
    listing = Listing(named("a"), 5.0, more_within_s=3)
    with listing.filling("list it"):
        began = trio.current_time()
        with pytest.raises(RemoteTimeout, match="within 3 s"):
            await listing.after(1)
        assert trio.current_time() - began < 10
        listing.add(named("b"), 5.0)
    assert await read(listing) == ["a", "b"]


async def test_readers_are_told_that_the_mount_ends(autojump_clock: object) -> None:
    listing = Listing(named("a"), 5.0, more_within_s=3)
    with trio.move_on_after(1), listing.filling("list it"):
        await trio.sleep_forever()
    with pytest.raises(RemoteError, match="taken down"):
        await read(listing)

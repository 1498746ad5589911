"""What pyfuse3 waits with: requests are taken in a row, and nobody else waits for ever."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pyfuse3
import pytest
import trio
import trio.testing

from wbfs.daemon.fuse.in_a_row import MOST, take_requests_in_a_row


@pytest.fixture(autouse=True)
def in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give pyfuse3 back what it had, afterwards."""
    monkeypatch.setattr(pyfuse3, "trio", trio)
    take_requests_in_a_row()


@pytest.fixture
def readable() -> Iterator[int]:
    """Return a descriptor that is readable always."""
    reading, writing = os.pipe()
    os.write(writing, b"request")
    with closing(os.fdopen(reading)), closing(os.fdopen(writing)):
        yield reading


async def test_others_have_their_turn_while_there_are_always_requests(readable: int) -> None:
    turns = 0
    lock = pyfuse3.trio.Lock()  # type: ignore[attr-defined]

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(10 * MOST):
            async with lock:
                await pyfuse3.trio.lowlevel.wait_readable(readable)  # type: ignore[attr-defined]
        nursery.cancel_scope.cancel()
    # Few enough that most requests were taken in a row.
    assert 5 < turns < 3 * MOST


async def test_who_had_the_turn_has_it_again_until_it_waits() -> None:
    order = []
    lock = pyfuse3.trio.Lock()  # type: ignore[attr-defined]

    async def take(name: str) -> None:
        async with lock:
            order.append(name)

    async with trio.open_nursery() as nursery:
        async with lock:
            for name in ("one", "two"):
                nursery.start_soon(take, name)
                await trio.testing.wait_all_tasks_blocked()
        await take("again")
        assert order == ["again"]
    # Trio lets those that may go on at once do so in an order by chance.
    assert sorted(order[1:]) == ["one", "two"]


async def test_who_is_cancelled_leaves_the_turn_to_others() -> None:
    order = []
    lock = pyfuse3.trio.Lock()  # type: ignore[attr-defined]
    cancelled = trio.CancelScope()

    async def never() -> None:
        with cancelled:
            async with lock:
                await trio.lowlevel.checkpoint()
                order.append("never")

    async def take() -> None:
        async with lock:
            order.append("other")

    async with trio.open_nursery() as nursery:
        async with lock:
            for function in (never, take):
                nursery.start_soon(function)
                await trio.testing.wait_all_tasks_blocked()
        cancelled.cancel()
    assert order == ["other"]


async def test_what_is_gone_again_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked was killed, or answered, before trio came back: pyfuse3's read would wait."""
    reading, writing = os.pipe()
    waited = 0

    async def wait(_: int) -> None:
        nonlocal waited
        waited += 1
        await trio.lowlevel.checkpoint()
        if waited == 2:
            os.write(writing, b"request")

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait)
    with closing(os.fdopen(reading)), closing(os.fdopen(writing)):
        await pyfuse3.trio.lowlevel.wait_readable(reading)  # type: ignore[attr-defined]
    assert waited == 2

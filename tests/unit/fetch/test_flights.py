"""Flights: one fetch for all who want it, and a deadline for each."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from wbfs.fetch.work.background import Background
from wbfs.fetch.work.flights import SLACK_S, Flights
from wbfs.model.errors import Defect, NotFound, RemoteTimeout


async def test_many_waiters_one_fetch(nursery: trio.Nursery, autojump_clock: object) -> None:
    flights: Flights[int] = Flights(Background(nursery))
    started = 0

    async def fetch() -> int:
        nonlocal started
        started += 1
        await trio.sleep(5)
        return 42

    results = []

    async def wait() -> None:
        results.append(await flights.join("key", fetch, timeout_s=60, what="read it"))

    async with trio.open_nursery() as waiters:
        for _ in range(50):
            waiters.start_soon(wait)
    assert results == [42] * 50
    assert started == 1
    assert len(flights) == 0
    assert await flights.join("key", fetch, timeout_s=60, what="read it") == 42
    assert started == 2


async def test_a_waiter_gives_up_and_the_flight_goes_on(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    flights: Flights[int] = Flights(Background(nursery))

    async def fetch() -> int:
        await trio.sleep(10)
        return 1

    began = trio.current_time()
    with pytest.raises(RemoteTimeout, match="can't read it: no answer within 3 s"):
        await flights.join("key", fetch, timeout_s=3, what="read it")
    assert trio.current_time() - began == pytest.approx(3 + SLACK_S)
    assert await flights.join("key", fetch, timeout_s=30, what="read it") == 1
    assert trio.current_time() - began == pytest.approx(10)


async def test_errors_reach_every_waiter_and_nobody_else(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    flights: Flights[int] = Flights(Background(nursery))

    async def fetch() -> int:
        await trio.sleep(1)
        raise NotFound("no such thing")

    failures = []

    async def wait() -> None:
        with pytest.raises(NotFound) as caught:
            await flights.join("key", fetch, timeout_s=60, what="read it")
        failures.append(str(caught.value))

    async with trio.open_nursery() as waiters:
        waiters.start_soon(wait)
        waiters.start_soon(wait)
    assert failures == ["can't read it: no such thing"] * 2


async def test_a_defect_in_a_fetch_is_its_waiters_and_touches_nothing_else(
    nursery: trio.Nursery,
) -> None:
    background = Background(nursery)
    flights: Flights[int] = Flights(background)

    async def fetch() -> int:
        raise KeyError("a defect")

    with pytest.raises(Defect, match="KeyError"):
        await flights.join("key", fetch, timeout_s=60, what="read it")
    assert background.defects == 1
    assert not nursery.cancel_scope.cancel_called

"""Work in the background: its errors reach who waits for it, and nothing else; and no other way."""

from __future__ import annotations

import ast
import errno
import logging
from pathlib import Path

import pytest
import trio

from wbfs.fetch.work.background import Background, in_background
from wbfs.model.errors import Defect, NoDescriptor, NotFound, RemoteError

WBFS = Path(__file__).parents[3] / "wbfs"
THE_ONE_WAY = WBFS / "fetch" / "work" / "background.py"
OTHER_WAYS = {"start_soon", "open_nursery", "spawn_system_task", "spawn_thread", "create_task"}
"""What trio, and asyncio, start tasks with."""


def uses_of(names: set[str]) -> set[Path]:
    """Return the modules of the daemon and its commands that use attributes of those names."""
    return {
        path
        for path in WBFS.rglob("*.py")
        if "devserver" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in names
    }


def test_nothing_else_starts_background_tasks() -> None:
    assert uses_of(OTHER_WAYS) == {THE_ONE_WAY}


async def test_what_work_returns_is_for_all_who_wait() -> None:
    async with in_background() as background:

        async def answer() -> int:
            await trio.sleep(0)
            return 42

        work = background.spawn(answer, name="answer")
        assert await work.result() == 42
        assert await work.result() == 42


async def test_that_no_descriptor_is_left_is_no_defect() -> None:
    async with in_background() as background:

        async def fail() -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with pytest.raises(NoDescriptor, match="ulimit -Hn"):
            await background.spawn(fail, name="look").result()
        assert background.defects == 0


async def test_an_error_reaches_who_waits(caplog: pytest.LogCaptureFixture) -> None:
    async with in_background() as background:

        async def fail() -> None:
            await trio.sleep(0)
            raise NotFound("there is no such thing")

        work = background.spawn(fail, name="look")
        with pytest.raises(NotFound, match="no such thing"):
            await work.result()
    assert not caplog.records


async def test_an_error_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with in_background() as background:

        async def fail() -> None:
            raise NotFound("there is no such thing")

        await background.spawn(fail, name="look").ended.wait()
    assert [record.getMessage() for record in caplog.records] == ["look: there is no such thing"]


async def test_a_defect_is_logged_counted_told_and_touches_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with in_background() as background:
        other = background.spawn(lambda: trio.sleep(0.01), name="something else")

        async def fail() -> None:
            raise KeyError("Refused")

        work = background.spawn(fail, name="prefetch a file")
        with pytest.raises(Defect, match="KeyError.*prefetch a file"):
            await work.result()
        await other.result()
        assert background.defects == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert isinstance(record.exc_info[1], KeyError)


async def test_cancelled_work_tells_who_waits() -> None:
    async with in_background() as background:
        work = background.spawn(trio.sleep_forever, name="sleep")
        work.cancel()
        with pytest.raises(RemoteError):
            await work.result()


async def test_the_end_cancels_what_still_runs() -> None:
    async with in_background() as background:
        work = background.spawn(trio.sleep_forever, name="sleep")
    assert work.ended.is_set()


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    async def fail_beside_work() -> None:
        async with in_background() as background:
            background.spawn(trio.sleep_forever, name="sleep")
            raise NotFound("there is no such thing")

    with pytest.raises(NotFound):
        await fail_beside_work()


def test_background_is_made_in_one_place_only() -> None:
    makers = {
        path
        for path in WBFS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == Background.__name__
    }
    assert makers == {THE_ONE_WAY}

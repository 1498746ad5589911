"""How long a server that is gone is waited for: once, and then by nobody."""

from __future__ import annotations

import math
import re

import pytest
import trio
import trio.testing

from wbfs.fetch.work.background import Background
from wbfs.fetch.work.outage import PROBE_WAIT_S, QUIET_S, Reach
from wbfs.model.errors import AccessDenied, RemoteError

TIMEOUT_S = 60.0


class Server:
    """A server that answers its probes, after some seconds, with an error or not."""

    def __init__(self) -> None:
        self.error: Exception | None = RemoteError("connection refused")
        self.takes_s = 0.0
        self.probes = 0

    async def probe(self) -> None:
        self.probes += 1
        await trio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def reach(server: Server, nursery: trio.Nursery) -> Reach:
    return Reach(probe=server.probe, background=Background(nursery), timeout_s=TIMEOUT_S)


async def seconds(reach: Reach, *, has_answer: bool) -> float | None:
    """Return how long `check` took where it let the question pass, None where it refused it."""
    began = trio.current_time()
    refusal = ""
    try:
        await reach.check(has_answer=has_answer)
    except RemoteError as error:
        refusal = str(error)
    took_s = trio.current_time() - began
    if not refusal:
        return took_s
    assert re.search("can't be had since .*: connection refused", refusal)
    assert took_s <= PROBE_WAIT_S + 1e-6
    return None


def lose(reach: Reach, *, patient: bool = False) -> None:
    asked_at = trio.current_time() if patient else -math.inf
    reach.lost(RemoteError("connection refused"), asked_at=asked_at)


async def test_a_server_that_answers_is_asked(
    reach: Reach, server: Server, autojump_clock: trio.testing.MockClock
) -> None:
    assert await seconds(reach, has_answer=True) == 0
    assert await seconds(reach, has_answer=False) == 0
    assert server.probes == 0


async def test_older_answers_are_given_at_once(
    reach: Reach, server: Server, autojump_clock: trio.testing.MockClock
) -> None:
    lose(reach, patient=True)
    for _ in range(100):
        assert await seconds(reach, has_answer=True) is None
    assert server.probes == 0
    # Now and then it is asked whether it is back, behind everybody's back.
    server.takes_s = 3.0
    for expected in (1, 1, 2):
        await trio.sleep(QUIET_S)
        before = trio.current_time()
        assert await seconds(reach, has_answer=True) is None
        assert trio.current_time() == before
        await trio.testing.wait_all_tasks_blocked()
        assert server.probes == expected
    await trio.sleep(server.takes_s + 1)
    server.error, server.takes_s = None, 0.0
    await trio.sleep(QUIET_S)
    assert await seconds(reach, has_answer=True) is None
    await trio.testing.wait_all_tasks_blocked()
    assert reach.outage is None
    assert await seconds(reach, has_answer=True) == 0


async def test_what_has_no_answer_is_waited_for_once(
    reach: Reach, server: Server, autojump_clock: trio.testing.MockClock
) -> None:
    lose(reach, patient=True)
    assert await seconds(reach, has_answer=False) == 0
    await trio.sleep(TIMEOUT_S - 1)
    lose(reach)
    assert await seconds(reach, has_answer=False) == 0
    await trio.sleep(1)
    server.takes_s = 5.0
    assert await seconds(reach, has_answer=False) is None
    assert await seconds(reach, has_answer=False) is None
    # They wait for the same question.
    assert server.probes == 1
    since = reach.outage
    assert since is not None
    await trio.sleep(10)
    server.error, server.takes_s = None, 0.3
    assert await seconds(reach, has_answer=False) == pytest.approx(0.3)
    assert reach.outage is None


@pytest.mark.parametrize("error", [AccessDenied("who are you?"), None])
async def test_any_word_of_the_server_ends_it(
    reach: Reach, server: Server, error: Exception | None
) -> None:
    lose(reach)
    server.error = error
    assert await seconds(reach, has_answer=False) is not None
    assert reach.outage is None


async def test_a_defect_in_the_probe_ends_nothing(
    reach: Reach, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    lose(reach)
    server.error = KeyError("a defect of ours")
    assert await seconds(reach, has_answer=False) is None
    assert "a defect of ours" in caplog.text
    server.error = None
    assert await seconds(reach, has_answer=False) is not None

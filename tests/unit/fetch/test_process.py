"""Processes apart: what they answer, and that nothing but their orders notices how they fail."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import odd_program
import pytest
import trio
from odd_program import SECRET, Odd
from processes import note_starts

import wbfs
from wbfs.fetch.apart.process import Lost, NotStarted, Process
from wbfs.fetch.work.background import Background, in_background
from wbfs.model import errors
from wbfs.model.errors import RemoteError, WbfsError, while_doing
from wbfs.remote.http.bytes import ObjectMissing
from wbfs.remote.references.objects import Refused

LONG_S = 300.0
SILENT_S = 9.0


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(odd_program.__file__).parent))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return the processes that were started; none may be left at the end."""
    found = note_starts(monkeypatch)
    yield found
    for process in found:
        assert process.poll() is not None


@pytest.fixture
async def background(started: list[subprocess.Popen[bytes]]) -> AsyncIterator[Background]:
    with trio.fail_after(350):
        async with in_background() as background:
            yield background


class Told:
    """Whom processes tell what became of orders."""

    def __init__(self, process: Process[Odd, object]) -> None:
        self._process = process
        self._news = trio.Event()
        self.outcomes: dict[str, tuple[object, Exception | None]] = {}

    def order(self, name: str, order: Odd, *, timeout_s: float = LONG_S) -> None:
        def done(answer: object, error: Exception | None) -> None:
            assert name not in self.outcomes
            self.outcomes[name] = answer, error
            self._news.set()

        self._process.order(order, done, timeout_s=timeout_s)

    async def of(self, *names: str) -> list[tuple[object, Exception | None]]:
        while not set(names) <= set(self.outcomes):
            self._news = trio.Event()
            await self._news.wait()
        return [self.outcomes[name] for name in names]


async def test_orders_are_answered_as_they_are_done(background: Background) -> None:
    told = Told(Process(background, odd_program.program()))
    told.order("slow", Odd(sleep_s=LONG_S))
    for number in range(1000):
        told.order(str(number), Odd(answer=number))
    assert await told.of(*map(str, range(1000))) == [(number, None) for number in range(1000)]
    assert "slow" not in told.outcomes


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        ("missing", ObjectMissing, "the object is gone"),
        ("refused", Refused, "store.example answers 400 InvalidArgument to a GET of the object"),
        ("remote", RemoteError, "no answer"),
        ("key", KeyError, "'x'"),
        ("memory", MemoryError, ""),
        ("unpicklable", RemoteError, "a process apart failed: Unpicklable"),
        ("unmakeable", RemoteError, "a process apart failed: Unmakeable"),
        ("exit", RemoteError, "a process apart was to end: SystemExit"),
        ("interrupt", RemoteError, "a process apart was to end: KeyboardInterrupt"),
    ],
)
async def test_errors_arrive_as_what_they_are(
    background: Background,
    started: list[subprocess.Popen[bytes]],
    error: str,
    kind: type[Exception],
    text: str,
) -> None:
    told = Told(Process(background, odd_program.program()))
    told.order("bad", Odd(error=error))
    [(_, raised)] = await told.of("bad")
    assert (type(raised), str(raised)) == (kind, text)
    assert SECRET not in repr(raised)
    if isinstance(raised, Refused):
        assert (raised.status, raised.denied, raised.signed) == (400, False, True)
    # The others have the same process.
    told.order("good", Odd(answer=1))
    assert await told.of("good") == [(1, None)]
    assert len(started) == 1


async def test_a_defect_says_where_it_was(background: Background) -> None:
    told = Told(Process(background, odd_program.program()))
    told.order("bad", Odd(error="key"))
    [(_, raised)] = await told.of("bad")
    assert raised is not None
    assert "odd_program.py" in "".join(raised.__notes__)


async def test_what_it_prints_harms_nothing(
    background: Background, capfd: pytest.CaptureFixture[str]
) -> None:
    told = Told(Process(background, odd_program.program()))
    told.order("loud", Odd(answer=1, prints=50))
    told.order("quiet", Odd(answer=2))
    assert await told.of("loud", "quiet") == [(1, None), (2, None)]
    assert "garbage" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("end", ["killed", "stopped", "left", "late"])
async def test_what_a_failing_process_had_is_lost_and_no_more(
    background: Background, started: list[subprocess.Popen[bytes]], end: str
) -> None:
    # Another one, and the next, may be silent for longer where the machine is busy.
    silent_s = SILENT_S if end == "stopped" else LONG_S
    process = Process(background, odd_program.program(silent_s=silent_s))
    told = Told(process)
    told.order("first", Odd(answer=1))
    assert await told.of("first") == [(1, None)]
    told.order("other", Odd(sleep_s=LONG_S))
    odd = {
        "killed": Odd(number=signal.SIGKILL, sleep_s=LONG_S),
        "stopped": Odd(number=signal.SIGSTOP, sleep_s=LONG_S),
        "left": Odd(dies=True),
        "late": Odd(sleep_s=LONG_S),
    }
    told.order("bad", odd[end], timeout_s=1 if end == "late" else LONG_S)
    if end == "stopped":
        with trio.fail_after(100):
            while not process.is_quiet:
                await trio.sleep(0.1)
        # More than goes into the socket: nobody waits for it to be read.
        told.order("large", Odd(answer=bytes(4 << 20)))
        assert isinstance((await told.of("large"))[0][1], Lost)
    texts = {
        "killed": "was ended by signal 9",
        "stopped": "was silent for 9 s",
        "left": "ended by itself (3)",
        "late": "takes too long",
    }
    for _, error in await told.of("bad", "other"):
        assert type(error) is Lost
        assert texts[end] in str(error)
    assert not process.is_quiet
    # The next one has a fresh process.
    told.order("next", Odd(answer=2))
    assert await told.of("next") == [(2, None)]
    assert len(started) == 2


async def test_a_process_that_has_nothing_to_do_ends(
    background: Background, started: list[subprocess.Popen[bytes]]
) -> None:
    process = Process(background, odd_program.program(idle_s=0))
    for number in range(3):
        assert await process.result(Odd(answer=number), timeout_s=LONG_S) == number
        # The next order comes while it ends, or after that.
        while number and started[-1].poll() is None:
            await trio.sleep(0.05)
    while started[-1].poll() is None:
        await trio.sleep(0.05)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
async def test_processes_that_fail_do_not_spin(
    mock_clock: object, background: Background, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # No time passes.
    tried = []

    def fail(*args: object, **options: object) -> None:
        tried.append(args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", fail)
    process = Process(background, odd_program.program())
    for _ in range(200):
        with pytest.raises(NotStarted, match=os.strerror(number)):
            await process.result(Odd(), timeout_s=LONG_S)
    # At once, once more at once, and then not for a while that gets longer.
    assert 2 <= len(tried) <= 4


async def test_however_many_have_failed_the_next_is_started_within_a_minute(
    background: Background,
) -> None:
    process = Process(background, odd_program.program())
    for _ in range(2000):
        process._note(Lost("it was killed"))
    assert process._paused_until <= trio.current_time() + 60


async def test_nor_do_those_that_end_at_once(
    mock_clock: object, background: Background, started: list[subprocess.Popen[bytes]]
) -> None:
    process = Process(background, odd_program.program(is_bad=True))
    for _ in range(50):
        with pytest.raises(Lost, match="signal 9"):
            await process.result(Odd(), timeout_s=LONG_S)
    assert 2 <= len(started) <= 4


async def test_who_is_told_may_fail(background: Background) -> None:
    process = Process(background, odd_program.program())
    told = Told(process)

    def fail(answer: object, error: Exception | None) -> None:
        raise KeyError("a defect")

    process.order(Odd(), fail, timeout_s=LONG_S)
    told.order("other", Odd(answer=1))
    assert await told.of("other") == [(1, None)]
    while not background.defects:
        await trio.sleep(0.01)
    assert background.defects == 1


async def test_orders_that_the_end_overtakes_are_told(
    started: list[subprocess.Popen[bytes]],
) -> None:
    with trio.fail_after(100):
        async with in_background() as background:
            told = Told(Process(background, odd_program.program()))
            told.order("first", Odd(answer=1))
            await told.of("first")
            told.order("slow", Odd(sleep_s=LONG_S))
    assert isinstance(told.outcomes["slow"][1], Lost)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_it_imports_little() -> None:
    program = (
        "import sys, wbfs.fetch.apart.small_files, wbfs.fetch.apart.tables;"
        "print({'trio', 'pyfuse3', 'click', 'tqdm', 'botocore'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        cwd=Path(wbfs.__file__).parents[1],
    )
    assert done.stdout == "set()\n"


def kinds(of: type[WbfsError] = WbfsError) -> Iterator[type[WbfsError]]:
    """Yield all errors of ours that were imported."""
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


def test_every_error_can_be_sent_and_worded_anew() -> None:
    found = set(kinds())
    assert {Refused, ObjectMissing, errors.StoreFull} <= found
    for kind in found:
        more = while_doing("read x", kind("no answer"))
        assert (type(more), str(more)) == (kind, "can't read x: no answer")

"""Inputs of runs: what a transaction log says, when the server is told, and what too much does."""

from __future__ import annotations

import io
import logging
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbfs.daemon.lineage import recorder, sender
from wbfs.daemon.lineage.finder import Finder, Opened
from wbfs.daemon.lineage.readers import Readers, kin_of
from wbfs.daemon.lineage.recorder import Recorder
from wbfs.daemon.lineage.sender import Sender
from wbfs.daemon.lineage.transaction_log import read_run
from wbfs.fetch.work.background import in_background
from wbfs.fetch.work.offload import Offload
from wbfs.model.entries import Version, Viewer
from wbfs.model.errors import (
    AccessDenied,
    LoginRefused,
    NameInvalid,
    NoDescriptor,
    NotFound,
    RemoteError,
    UsageError,
)
from wbfs.model.runs import Run, Use, parse_run
from wbfs.remote.api.graphql import QueryRefused
from wbfs.remote.http.transport import Deadline
from wbfs.store.known import uses as uses_module
from wbfs.store.known.uses import Uses

ADA = Viewer(id="VXNlcjox", entity="ada", username="ada", teams=())
BOB = Viewer(id="VXNlcjoy", entity="bob", username="bob", teams=())
RUN = Run(entity="ada", project="proj", name="1a2b")
OTHER = Run(entity="ada", project="proj", name="other")
CHUNK = struct.Struct("<IHB")


def test_names_of_runs() -> None:
    assert parse_run("ada/proj/1a2b") == RUN
    assert parse_run("1a2b", default_entity="ada", default_project="proj") == RUN
    assert parse_run("proj/1a2b", default_entity="ada", default_project="no") == RUN
    for text in ("", "1a2b", "a/b/c/d", "a//c", "a/../c"):
        with pytest.raises(NameInvalid, match="is no run"):
            parse_run(text)


# Transaction logs.


def field(number: int, value: bytes) -> bytes:
    size, length = len(value), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    tag = number << 3 | 2
    encoded = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    return encoded + length + bytes([size]) + value


def log_of(*records: bytes) -> bytes:
    """Return what the SDK writes of records: chunks that fill blocks."""
    data = b":W&B\xe1\xbe\x00"
    for record in records:
        left, kind = record, 0
        while left or not kind:
            room = (32 << 10) - len(data) % (32 << 10)
            if room < CHUNK.size:
                data += bytes(room)
                room = 32 << 10
            piece, left = left[: room - CHUNK.size], left[room - CHUNK.size :]
            kind = (3 if kind else 2) if left else (4 if kind else 1)
            data += CHUNK.pack(0, len(piece), kind) + piece
    return data


def record_of(entity: str = "team", more: bytes = b"") -> bytes:
    names = field(1, b"1a2b") + field(2, entity.encode()) + field(3, b"proj")
    # Other kinds of values, too: numbers of four and eight bytes, and short ones.
    return b"\x08\x96\x01" + field(17, names + more + b"\x69" + bytes(8) + b"\x75" + bytes(4))


def test_a_log_says_whose_it_is() -> None:
    header, big = field(21, b"version"), field(4, bytes(100_000))
    for data, entity in (
        (log_of(header, record_of()), "team"),
        (log_of(header, record_of(entity="")), "ada"),
        # It goes on over several blocks, and begins with the last bytes of one.
        (log_of(field(2, bytes(70_000)), record_of(more=big), header), "team"),
        (log_of(field(2, bytes((32 << 10) - 7 - 7 - 4 - 5)), record_of()), "team"),
    ):
        run = read_run(io.BytesIO(data), default_entity="ada")
        assert run == Run(entity=entity, project="proj", name="1a2b")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b":W&B\xe1\xbe\x00",
        log_of(record_of())[:-1],
        b"something else" + log_of(record_of()),
        log_of(field(17, field(1, b"only an id"))),
        log_of(field(17, b"\xff" * 20)),
        log_of(b"\x8a\x01\xff\xff\x01"),
        log_of(field(17, field(1, b"\xff") + field(3, b"proj"))),
    ],
)
def test_a_log_that_does_not_say_it(data: bytes) -> None:
    assert read_run(io.BytesIO(data), default_entity="ada") is None


@given(data=st.binary(max_size=200))
def test_no_log_is_a_defect(data: bytes) -> None:
    for text in (data, b":W&B\xe1\xbe\x00" + data, log_of(data), log_of(field(17, data))):
        read_run(io.BytesIO(text), default_entity="ada")


# The sender.


class FakeRuns:
    """A server that answers as it is told to; `told` is what it was told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.asked = 0
        self.answer: Callable[[Run, Use], None] = lambda run, use: None
        self.loggers: dict[str, Run] = {}

    def logged_by(self, artifact_id: str, *, deadline: Deadline) -> Run | None:
        if artifact_id == "gone":
            raise NotFound("there is no artifact of id gone")
        return self.loggers.get(artifact_id)

    def use(self, run: Run, use: Use, *, deadline: Deadline) -> None:
        self.asked += 1
        self.answer(run, use)
        self.told.append((run.name, use.artifact_id))


@pytest.fixture
def runs() -> FakeRuns:
    return FakeRuns()


def make_sender(tmp_path: Path, runs: FakeRuns, viewer: Viewer = ADA) -> Sender:
    kept = Uses(tmp_path, server="https://wandb.example.com", viewer=viewer)
    return Sender(kept, runs, default_entity=viewer.entity)  # type: ignore[arg-type]


def use_of(artifact_id: str, run: Run | str = RUN) -> Use:
    return Use(run=run, artifact_id=artifact_id, version=f"ada/proj/{artifact_id}:v0")


def failing(error: Exception) -> Callable[[Run, Use], None]:
    def fail(run: Run, use: Use) -> None:
        raise error

    return fail


def test_once_over_mounts_and_restarts(tmp_path: Path, runs: FakeRuns) -> None:
    for _ in range(2):
        mine = make_sender(tmp_path, runs)
        for _ in range(2):
            mine.add([use_of("a"), use_of("b"), use_of("a", OTHER)])
            assert mine.send() is None
    assert sorted(runs.told) == [("1a2b", "a"), ("1a2b", "b"), ("other", "a")]
    assert (mine.recorded, mine.pending, mine.failed) == (0, 0, 0)
    assert make_sender(tmp_path, runs, BOB).send() is None


def test_none_is_both_pending_and_recorded(tmp_path: Path, runs: FakeRuns) -> None:
    mine = make_sender(tmp_path, runs)
    counts = []
    runs.answer = lambda run, use: counts.append(mine.recorded + mine.pending)
    mine.add([use_of(name) for name in "abc"])
    mine.send()
    assert counts == [3, 3, 3]


def test_two_mounts_do_not_tell_the_same_at_once(tmp_path: Path, runs: FakeRuns) -> None:
    mine, theirs = make_sender(tmp_path, runs), make_sender(tmp_path, runs)
    runs.answer = lambda run, use: theirs.send() and None  # type: ignore[func-returns-value]
    mine.add([use_of("a")])
    mine.send()
    assert runs.told == [("1a2b", "a")]


def test_what_is_being_told_at_the_end_is_left_to_others(tmp_path: Path, runs: FakeRuns) -> None:
    mine, theirs = make_sender(tmp_path, runs), make_sender(tmp_path, runs)

    def wait_for_ever(run: Run, use: Use) -> None:
        runs.answer = lambda run, use: None
        mine.leave_to_others()
        theirs.send()
        raise KeyboardInterrupt

    runs.answer = wait_for_ever
    mine.add([use_of("a")])
    with pytest.raises(KeyboardInterrupt):
        mine.send()
    assert runs.told == [("1a2b", "a")]


def test_waits_grow_and_end(
    tmp_path: Path, runs: FakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(sender.time, "monotonic", lambda: now)
    mine = make_sender(tmp_path, runs)
    mine.add([use_of("a"), use_of("b", OTHER)])
    growing = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    for error, asked_each, expected in (
        # Nobody is asked when nobody answers; of another run it may be known.
        (RemoteError("no server"), 1, growing),
        (LoginRefused("the key has expired"), 1, [60] * 9),
        # A bundle of certificates that is being replaced, and too many open files.
        (UsageError("the environment names a bundle that isn't there"), 1, [60] * 9),
        (NoDescriptor("no descriptor is left"), 1, [60] * 9),
        (QueryRefused("run not found"), 2, growing),
    ):
        runs.answer = failing(error)
        waits = []
        for _ in range(9):
            asked = runs.asked
            wait_s = mine.send()
            assert wait_s is not None
            assert runs.asked == asked + asked_each
            assert mine.send() == wait_s
            assert runs.asked == asked + asked_each
            waits.append(wait_s)
            now += wait_s
        assert waits == expected
    assert isinstance(mine.why_not(use_of("a")), QueryRefused)
    runs.answer = lambda run, use: None
    assert mine.send() is None
    assert mine.why_not(use_of("a")) is None


def test_what_is_refused_keeps_nothing_else_back(
    tmp_path: Path, runs: FakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(sender.time, "monotonic", lambda: now)

    def refuse(run: Run, use: Use) -> None:
        if use.artifact_id in ("a", "c"):
            raise QueryRefused("that artifact is deleted")

    runs.answer = refuse
    mine = make_sender(tmp_path, runs)
    mine.add([use_of(name) for name in "abcd"])
    for asked in (1, 3, 5):
        wait_s = mine.send()
        assert wait_s is not None
        # No more than one refusal each time: it may be the run that is not there.
        assert runs.asked == asked
        now += wait_s
    assert runs.told == [("1a2b", "b"), ("1a2b", "d")]
    assert mine.pending == 2


def test_what_is_given_up(tmp_path: Path, runs: FakeRuns, caplog: pytest.LogCaptureFixture) -> None:
    runs.loggers["own"] = RUN
    runs.answer = failing(AccessDenied("permission denied"))
    mine = make_sender(tmp_path, runs)
    with caplog.at_level(logging.WARNING):
        # What the server denies counts for all uses of the run that are told later, and which are
        # later is the clock's word.
        for few in (("own", "gone"), ("a", "b")):
            mine.add([use_of(name) for name in few])
            assert mine.send() is None
    # Of one that is gone, and once for all that is denied.
    assert len(caplog.records) == 2
    assert runs.asked == 1
    assert (mine.recorded, mine.pending, mine.failed) == (0, 0, 3)
    for name, kind in (("own", UsageError), ("gone", NotFound), ("a", AccessDenied)):
        assert isinstance(mine.why_not(use_of(name)), kind)


def test_seven_days(tmp_path: Path, runs: FakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.answer = failing(QueryRefused("run not found"))
    mine = make_sender(tmp_path, runs)
    mine.add([use_of("a")])
    mine.send()
    eight_days = time.time() + 8 * 86400
    monkeypatch.setattr(uses_module.time, "time", lambda: eight_days)
    later = make_sender(tmp_path, runs)
    assert later.send() is None
    assert (later.pending, later.failed) == (0, 1)


@pytest.mark.parametrize("error", [LoginRefused("no reason given"), RemoteError("it answers 503")])
def test_a_run_that_is_refused_keeps_no_other_back(
    tmp_path: Path, runs: FakeRuns, error: Exception
) -> None:
    def answer(run: Run, use: Use) -> None:
        if run == RUN:
            raise error

    runs.answer = answer
    mine = make_sender(tmp_path, runs)
    mine.add([use_of("a")])
    mine.send()
    mine.add([use_of("b", OTHER)])
    mine.send(at_once=True)
    assert runs.told == [(OTHER.name, "b")]
    assert mine.pending == 1


def test_a_log_that_is_filled_later(tmp_path: Path, runs: FakeRuns) -> None:
    log, other_log = tmp_path / "run.wandb", tmp_path / "resumed.wandb"
    log.touch()
    mine = make_sender(tmp_path, runs)
    mine.add([use_of("a", str(log)), use_of("a", str(other_log))])
    assert mine.send() == 1
    assert mine.pending == 2
    for path in (log, other_log):
        path.write_bytes(log_of(record_of(entity="")))
    # Its folder goes with the run, before anybody has looked again.
    log.unlink()
    assert mine.send(at_once=True) is None
    assert mine.resolved(use_of("a", str(log))).run == RUN
    assert runs.told == [("1a2b", "a")]


def test_a_cache_that_can_not_be_written(tmp_path: Path, runs: FakeRuns) -> None:
    (tmp_path / "file").touch()
    mine = make_sender(tmp_path / "file", runs)
    mine.add([use_of("a"), use_of("b", str(tmp_path / "run.wandb"))])
    (tmp_path / "run.wandb").write_bytes(log_of(record_of(entity="")))
    assert mine.send() is None
    mine.add([use_of("a")])
    mine.send(at_once=True)
    assert sorted(runs.told) == [("1a2b", "a"), ("1a2b", "b")]


# What is opened.


def test_what_was_of_one_run_is_not_of_the_next() -> None:
    runs: frozenset[Run | str] = frozenset()

    class Around:
        def runs_of(self, kin: object) -> frozenset[Run | str]:
            return runs

    finder = Finder(Around)  # type: ignore[arg-type]
    early, kept = (Opened(kin_of(os.getpid()), name, f"ada/proj/{name}:v0") for name in "ab")
    # What was opened before there is a run is that run's.
    assert finder.find([early]) == []
    runs = frozenset({RUN})
    assert finder.find([kept], at_last=True) == [use_of("a"), use_of("b")]
    # It was looked at when the run had just ended.
    runs = frozenset()
    assert finder.find([early, kept]) == []
    runs = frozenset({OTHER})
    assert finder.find([], at_last=True) == []
    assert finder.find([kept]) == [use_of("b", OTHER)]


async def test_what_is_too_much_is_dropped(
    tmp_path: Path, runs: FakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "QUEUED", 10)
    finder = Finder(partial(Readers, server="https://wandb.example.com", default_entity="ada"))
    found: list[Opened] = []

    def find(opened: list[Opened], *, at_last: bool) -> list[Use]:
        found.extend(opened)
        return [use_of(one.artifact_id) for one in opened]

    monkeypatch.setattr(finder, "find", find)
    async with in_background() as background:
        mine = Recorder(
            run=None,
            finder=finder,
            sender=make_sender(tmp_path, runs),
            offload=Offload(),
            background=background,
        )
        mine.start()
        of = {"entity": "ada", "project": "proj", "collection": "c", "name": "v0", "type": "t"}
        for number in [*range(15), 0]:
            version = Version(id=f"id{number}", digest="", **of)
            mine.opened(os.getpid(), os.getuid(), version)
            # Another user, and a reader who can't be seen.
            mine.opened(os.getpid(), os.getuid() + 1, version)
            mine.opened(0, os.getuid(), version)
        assert mine.report()["dropped"] == 5
        await mine.close()
        assert len(found) == 10
        assert mine.report() == {
            "run": "auto",
            "recorded": 10,
            "pending": 0,
            "failed": 0,
            "dropped": 5,
        }

"""The queue of files that nobody waits for: what fails does so for the files concerned only."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from fetching import resources
from object_stores import isolate, scripted_store
from processes import note_starts
from tables import VERSION

from wbfs.fetch.ahead.queue import FILES_AT_ONCE, Job, Outcome, Prefetch
from wbfs.fetch.apart import small_files
from wbfs.fetch.resources import Resources
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.background import in_background
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, Reference, Version
from wbfs.model.errors import StoreError, WbfsError
from wbfs.remote.http.bytes import ByteStream, Location
from wbfs.remote.http.gateway import Gateway
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references.objects import Refused

COUNT = 100
TIMEOUT_S = 40.0


class Files:
    """Files on this machine, and where they are fetched from when it is done here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.opened: Counter[str] = Counter()
        self.gateway = Gateway("", Transport())

    def entry(self, number: int) -> Entry:
        path = self._folder / f"{number:03}"
        path.write_bytes(f"file {number}".encode())
        uri = path.as_uri()
        digest = Digest(Algorithm.MD5, hashlib.md5(path.read_bytes()).hexdigest())
        reference = Reference(uri=uri, token=uri)
        size = path.stat().st_size
        return Entry(path=path.name, size=size, digest=digest, reference=reference)

    @contextmanager
    def open(
        self,
        version: Version,
        entry: Entry,
        *,
        start: int,
        stop: int | None,
        deadline: Deadline,
        is_checked: bool,
    ) -> Iterator[ByteStream]:
        self.opened[entry.path] += 1
        content = (self._folder / entry.path).read_bytes()
        yield ByteStream(size=len(content), etag="", pieces=iter([content[start:stop]]))

    def origin(self, version: Version, entry: Entry) -> str:
        return ""

    def location(self, version: Version, entry: Entry) -> Location | None:
        return None


class Queue:
    """A queue, its files, and what became of them."""

    def __init__(self, used: Resources, files: Files) -> None:
        self.used = used
        self.files = files
        self.prefetch = Prefetch(used)
        self.entries = [files.entry(number) for number in range(COUNT)]
        self.outcomes: dict[str, tuple[Outcome, WbfsError | None]] = {}
        self._news = trio.Event()

    def add(self, *entries: Entry) -> None:
        self.prefetch.add(*(self.job(entry) for entry in entries or self.entries))

    def job(self, entry: Entry) -> Job:
        def done(outcome: Outcome, error: WbfsError | None) -> None:
            assert entry.path not in self.outcomes
            self.outcomes[entry.path] = outcome, error
            self._news.set()

        return Job(Wanted(VERSION, entry), done)

    async def all(self) -> Counter[Outcome]:
        """Wait for what becomes of all files; what came is what it should be."""
        while len(self.outcomes) < COUNT:
            self._news = trio.Event()
            await self._news.wait()
        assert self.prefetch.in_progress == self.prefetch.backlog == 0
        for entry in self.entries:
            if self.outcomes[entry.path][0] is Outcome.FETCHED:
                content = self.used.blobs.path(entry.blob).read_bytes()
                assert hashlib.md5(content).hexdigest() == entry.digest.hex  # type: ignore[union-attr]
        return Counter(outcome for outcome, _ in self.outcomes.values())


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Return the processes that were started."""
    return note_starts(monkeypatch)


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    for name in ("cache", "files"):
        (tmp_path / name).mkdir()
    files = Files(tmp_path / "files")
    with trio.fail_after(350):
        async with in_background() as background:
            yield Queue(
                resources(background, tmp_path / "cache", files, timeout_s=TIMEOUT_S), files
            )


async def test_a_process_does_it(queue: Queue) -> None:
    queue.add()
    assert await queue.all() == {Outcome.FETCHED: COUNT}
    assert not queue.files.opened


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_what_the_process_does_not_do_is_done_here(
    queue: Queue,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(small_files, "SILENT_S", 12.0)
    queue = Queue(queue.used, queue.files)
    queue.add()
    while not started:
        await trio.sleep(0.001)
    os.kill(started[0].pid, number)
    assert await queue.all() == {Outcome.FETCHED: COUNT}
    assert 0 < len(queue.files.opened) <= FILES_AT_ONCE
    # A fresh one does the rest.
    assert len(started) == 2
    assert queue.used.background.defects == 0


async def test_without_a_process_all_is_done_here(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise BlockingIOError("no process")

    monkeypatch.setattr(subprocess, "Popen", fail)
    queue.add()
    assert await queue.all() == {Outcome.FETCHED: COUNT}
    assert len(queue.files.opened) == COUNT


async def test_who_waits_for_a_hung_process_fetches_it_in_time(
    queue: Queue, started: list[subprocess.Popen[bytes]]
) -> None:
    queue.add()
    while not started:
        await trio.sleep(0.001)
    os.kill(started[0].pid, signal.SIGSTOP)
    entry = queue.entries[0]
    began = trio.current_time()
    with queue.prefetch.demand(entry.blob.key) as landing:
        assert landing is not None
        await landing.wait()
        assert trio.current_time() - began < TIMEOUT_S
        assert entry.path not in queue.outcomes
        # Whoever has it fetched now is not overtaken.
        while started[0].poll() is None:
            await trio.sleep(0.05)
        await queue.all()
    assert queue.outcomes[entry.path] == (Outcome.LEFT, None)
    assert entry.path not in queue.files.opened


async def test_a_stores_refusal_is_one_files_failure(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("botocore")
    isolate(monkeypatch, tmp_path)
    refused = replace(
        queue.entries[7],
        reference=Reference(uri="s3://bucket/key", token="etag", version_id="none such"),
    )
    body = b"<Error><Code>InvalidArgument</Code></Error>"
    with scripted_store() as store:
        store.answer = lambda asked: (400, {}, body)
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        queue.entries[7] = refused
        queue.add()
        assert await queue.all() == {Outcome.FETCHED: COUNT - 1, Outcome.FAILED: 1}
        assert store.asked
    outcome, error = queue.outcomes[refused.path]
    assert (outcome, type(error)) == (Outcome.FAILED, Refused)
    assert queue.used.background.defects == 0


async def test_who_is_told_may_fail(queue: Queue) -> None:
    def fail(outcome: Outcome, error: WbfsError | None) -> None:
        queue.outcomes[first.path] = outcome, error
        raise KeyError("a defect")

    first, *others = queue.entries
    queue.prefetch.add(Job(Wanted(VERSION, first), fail))
    while not queue.outcomes:
        await trio.sleep(0.001)
    queue.add(*others)
    assert await queue.all() == {Outcome.FETCHED: COUNT}
    assert queue.used.background.defects == 1


def store_error() -> Exception:
    return StoreError("can't open the cached blob: too many open files")


@pytest.mark.parametrize(
    ("service", "method", "error", "outcome"),
    [
        ("blobs", "trust", KeyError, Outcome.FAILED),
        ("writeback", "due", KeyError, Outcome.FAILED),
        ("sources", "location", KeyError, Outcome.FAILED),
        ("blobs", "has", store_error, Outcome.FAILED),
    ],
)
async def test_what_fails_here_fails_for_one_file(
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    service: str,
    method: str,
    error: Callable[[], Exception],
    outcome: Outcome,
) -> None:
    owner = getattr(queue.used, service)
    normal = getattr(owner, method)
    calls = 0

    def fail_once(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error()
        return normal(*args)

    monkeypatch.setattr(owner, method, fail_once)
    queue.add()
    found = await queue.all()
    expected = Counter({Outcome.FETCHED: COUNT - 1})
    expected[outcome] += 1
    assert found == expected
    assert queue.used.background.defects == (error is KeyError)

"""Fetching a file whole: resumed after a break, checked, twice at most, and given up in the end."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from fetching import file_of, resources
from tables import digest_of

from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.transfer import FUTILE_ATTEMPTS
from wbfs.fetch.work.background import Background
from wbfs.fetch.work.offload import THREADS, Kind
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Blob, Entry, Reference, Version
from wbfs.model.errors import (
    IntegrityError,
    RemoteError,
    RemoteTimeout,
    StoreError,
    StoreFull,
    UrlExpired,
    WbfsError,
)
from wbfs.remote.http.bytes import ByteStream
from wbfs.remote.http.gateway import Gateway
from wbfs.remote.http.transport import Deadline, Transport

CONTENT = os.urandom(100_000)
DIGEST = Digest(Algorithm.MD5, hashlib.md5(CONTENT).hexdigest())
ENTRY = Entry(path="folder/file", size=len(CONTENT), digest=DIGEST)
VERSION = Version(
    id="QQ==", entity="e", project="p", collection="c", name="v0", type="dataset", digest=""
)
Answer = Callable[[int], Iterator[bytes]]


class FakeSources:
    """Gives bytes by scripted answers, each to one request; the last one stays."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.starts: list[int] = []
        self.gateway = Gateway("", Transport())

    def origin(self, version: Version, entry: Entry) -> str:
        return "store.example"

    def refuse(self, reference: Reference) -> None:
        """Refuse nothing."""

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
        self.starts.append(start)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        yield ByteStream(size=None, etag="", pieces=answer(start))


def whole(start: int) -> Iterator[bytes]:
    yield CONTENT[start:]


def wrong(start: int) -> Iterator[bytes]:
    yield bytes(len(CONTENT) - start)


def too_much(start: int) -> Iterator[bytes]:
    yield CONTENT[start:] + b"x"


def breaks_after(count: int, error: WbfsError | None = None) -> Answer:
    def answer(start: int) -> Iterator[bytes]:
        if count:
            yield CONTENT[start : start + count]
        raise error or RemoteError("the connection broke")

    return answer


class Fixture:
    """A fetcher with a store of its own."""

    def __init__(self, nursery: trio.Nursery, cache_dir: Path) -> None:
        self._nursery = nursery
        self._cache_dir = cache_dir
        self.fetcher: Fetcher

    async def fetch(self, sources: FakeSources, entry: Entry = ENTRY) -> bytes:
        """Read the entry's file through a handle."""
        self.resources = resources(
            Background(self._nursery), self._cache_dir, sources, timeout_s=100
        )
        self.fetcher = Fetcher(
            self.resources, verify_always=False, path_prefix="", drop_pages=lambda inodes: None
        )
        reader = self.fetcher.reader(VERSION, file_of(entry), 1)
        try:
            return bytes(await reader.read(0, 1 << 20))
        finally:
            reader.close()

    def blobs(self) -> list[Path]:
        return [path for path in (self._cache_dir / "blobs").rglob("*") if path.is_file()]

    def partial(self) -> list[Path]:
        return list((self._cache_dir / "partial").iterdir())


@pytest.fixture
def fixture(nursery: trio.Nursery, tmp_path: Path) -> Fixture:
    return Fixture(nursery, tmp_path)


async def test_few_files_stay_in_memory(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await fixture.fetch(FakeSources(whole)) == CONTENT

    def fail(blob: Blob) -> None:
        raise StoreFull("the disk is full")

    monkeypatch.setattr(fixture.resources.partial, "small", fail)
    before = len(os.listdir("/proc/self/fd"))

    async def read(number: int) -> None:
        # Of the same content for all that is known here, and by a name of its own.
        entry = Entry(path="f", size=len(CONTENT), digest=None, reference=reference(number))
        reader = fixture.fetcher.reader(VERSION, file_of(entry), 1)
        assert await reader.read(0, 1 << 20) == CONTENT
        reader.close()

    for number in range(300):
        await read(number)
    assert before + 50 < len(os.listdir("/proc/self/fd")) < before + 200
    # And none once there is room again.
    monkeypatch.undo()
    await read(300)
    assert len(os.listdir("/proc/self/fd")) < before + 20


def reference(number: int) -> Reference:
    return Reference(uri=f"https://store.example/{number}", token="", etag=f"{number}")


async def test_whole(fixture: Fixture) -> None:
    sources = FakeSources(whole)
    assert await fixture.fetch(sources) == CONTENT
    assert sources.starts == [0]
    assert fixture.fetcher.counters.fetched_bytes == len(CONTENT)
    assert len(fixture.blobs()) == 1
    # From the store now.
    assert await fixture.fetch(FakeSources(breaks_after(0))) == CONTENT


async def test_a_small_file_is_checked_while_large_ones_are(
    fixture: Fixture, nursery: trio.Nursery, tmp_path: Path
) -> None:
    assert await fixture.fetch(FakeSources(whole)) == CONTENT
    # As a later daemon finds it.
    used = resources(Background(nursery), tmp_path, FakeSources(breaks_after(0)), timeout_s=100)
    fetcher = Fetcher(used, verify_always=False, path_prefix="", drop_pages=lambda inodes: None)
    hashed = threading.Event()
    for _ in range(THREADS[Kind.CHECK]):
        nursery.start_soon(used.offload.run, Kind.CHECK, partial(hashed.wait, 100))
    await trio.testing.wait_all_tasks_blocked()
    reader = fetcher.reader(VERSION, file_of(ENTRY), 1)
    try:
        with trio.fail_after(50):
            assert await reader.read(0, 1 << 20) == CONTENT
    finally:
        hashed.set()
        reader.close()


async def test_a_cached_file_that_can_not_be_read_is_fetched_again(fixture: Fixture) -> None:
    assert await fixture.fetch(FakeSources(whole)) == CONTENT
    reader = fixture.fetcher.reader(VERSION, file_of(ENTRY), 1)
    assert await reader.read(0, 4096) == CONTENT[:4096]
    # As good as bad sectors.
    os.truncate(fixture.blobs()[0], 5000)
    assert await reader.read(4096, 1 << 20) == CONTENT[4096:]
    assert fixture.blobs()[0].read_bytes() == CONTENT
    # But not for ever.
    os.truncate(fixture.blobs()[0], 5000)
    with pytest.raises(StoreError, match="can't read a cached blob: it is shorter"):
        await reader.read(4096, 1 << 20)
    reader.close()


async def test_a_break_is_resumed(fixture: Fixture) -> None:
    sources = FakeSources(breaks_after(30_000), breaks_after(0), breaks_after(20_000), whole)
    assert await fixture.fetch(sources) == CONTENT
    assert sources.starts == [0, 30_000, 30_000, 50_000]


async def test_a_break_at_the_very_end_is_none(fixture: Fixture) -> None:
    sources = FakeSources(breaks_after(len(CONTENT)))
    assert await fixture.fetch(sources) == CONTENT
    assert sources.starts == [0]


async def test_a_refused_url_is_asked_for_once_more(fixture: Fixture) -> None:
    refused = breaks_after(0, UrlExpired("refused"))
    assert await fixture.fetch(FakeSources(refused, whole)) == CONTENT
    sources = FakeSources(refused)
    with pytest.raises(UrlExpired, match="can't read e/p/c:v0/folder/file: refused"):
        await fixture.fetch(
            sources,
            Entry(path="folder/file", size=1, digest=digest_of("1B2M2Y8AsgTpgAmY7PhCfg==")),
        )
    assert sources.starts == [0, 0]


async def test_it_is_given_up(fixture: Fixture) -> None:
    sources = FakeSources(breaks_after(0, RemoteTimeout("silence")))
    with pytest.raises(RemoteTimeout, match="silence"):
        await fixture.fetch(sources)
    assert len(sources.starts) == FUTILE_ATTEMPTS
    assert fixture.partial() == []
    assert fixture.fetcher.counters.failed_fetches == 1


async def test_wrong_bytes_are_fetched_once_more(fixture: Fixture) -> None:
    sources = FakeSources(wrong, whole)
    assert await fixture.fetch(sources) == CONTENT
    assert sources.starts == [0, 0]


@pytest.mark.parametrize("answer", [wrong, too_much])
async def test_wrong_bytes_twice_are_an_error(fixture: Fixture, answer: Answer) -> None:
    sources = FakeSources(answer)
    with pytest.raises(IntegrityError, match="it is damaged on the server or on the way, twice"):
        await fixture.fetch(sources)
    assert len(sources.starts) == 2
    assert fixture.blobs() == fixture.partial() == []


async def test_what_nothing_identifies_is_not_resumed(fixture: Fixture) -> None:
    reference = Reference(uri="http://h/x", token="http://h/x")
    entry = Entry(path="folder/file", size=None, digest=None, reference=reference)
    with pytest.raises(RemoteError, match="the connection broke"):
        await fixture.fetch(FakeSources(breaks_after(30_000), whole), entry)
    assert await fixture.fetch(FakeSources(breaks_after(0), whole), entry) == CONTENT


async def test_reads_stop_at_the_end(fixture: Fixture) -> None:
    await fixture.fetch(FakeSources(whole))
    reader = fixture.fetcher.reader(VERSION, file_of(ENTRY), 1)
    assert await reader.read(len(CONTENT) - 10, 4096) == CONTENT[-10:]
    assert await reader.read(len(CONTENT), 4096) == b""
    assert await reader.read(len(CONTENT) + 10, 4096) == b""
    reader.close()


async def test_a_cache_that_is_removed(
    fixture: Fixture,
    tmp_path: Path,
) -> None:
    assert await fixture.fetch(FakeSources(whole)) == CONTENT
    shutil.rmtree(tmp_path)
    reader = fixture.fetcher.reader(VERSION, file_of(ENTRY), 1)
    assert await reader.read(0, len(CONTENT)) == CONTENT
    reader.close()
    assert fixture.resources.blobs.open(ENTRY.blob) is not None

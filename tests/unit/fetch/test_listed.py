"""URLs of listed folders' files: asked for beside the first one's, and how many at most.

What the API was asked is told by question, each with its files; nothing is judged by time.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from fetching import new_manifests, resources
from tables import VERSION, add_table

from wbfs.fetch.ahead import listed
from wbfs.fetch.ahead.listed import MOST_AT_ONCE, NAMES
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.small.urls import SignedUrls
from wbfs.fetch.transfer import FUTILE_ATTEMPTS
from wbfs.fetch.work.background import Background, in_background
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, Reference, Version
from wbfs.model.errors import RemoteError, UrlExpired
from wbfs.remote.http.bytes import ByteStream
from wbfs.remote.http.gateway import Gateway
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.store.known.manifest_table import ManifestTable

READS = 30
"""So few that nothing is prefetched."""


class Api:
    """Gives URLs, but of files that it lacks, and none where it is asked for too many."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.lacks: set[str] = set()
        self.most_names = 5 * NAMES

    def file_urls(
        self, version: Version, paths: Sequence[str], *, deadline: Deadline
    ) -> dict[str, str]:
        self.questions.append(list(paths))
        if len(paths) > self.most_names:
            raise RemoteError("that is too much to ask")
        return {path: f"https://store/{path}" for path in paths if path not in self.lacks}

    @property
    def singles(self) -> list[str]:
        """The files that were asked for alone."""
        return [paths[0] for paths in self.questions if len(paths) == 1]

    @property
    def batches(self) -> list[list[str]]:
        """The other questions."""
        return [paths for paths in self.questions if len(paths) > 1]

    @property
    def times(self) -> Counter[str]:
        """How often each file was asked for."""
        return Counter(path for paths in self.questions for path in paths)


class FakeSources:
    """What `Sources` is, of files whose content is their path; the store may refuse URLs."""

    def __init__(self, api: Api, folder: Path, entries: Iterable[Entry]) -> None:
        self._manifests = new_manifests(folder, "server")
        add_table(self._manifests, VERSION.id, entries).close()
        self._urls = SignedUrls(
            api=api,  # type: ignore[arg-type]
            ask=lambda ask, deadline: ask(deadline),
            manifests=self._manifests,
        )
        self.was_listed = self._urls.was_listed
        self.refuses: set[str] = set()
        self.gateway = Gateway("", Transport())

    @property
    def refused_urls(self) -> int:
        return self._urls.refused

    def refuse(self, reference: Reference) -> None:
        """Refuse none."""

    def manifest(self, version: Version, *, deadline: Deadline) -> ManifestTable:
        table = self._manifests.open(version.id)
        assert table is not None
        return table

    def table(self, version: Version) -> ManifestTable | None:
        return self._manifests.open(version.id)

    def origin(self, version: Version, entry: Entry) -> str | None:
        return "store" if entry.reference or self._urls.known(version, entry.path) else None

    def prepare(
        self, version: Version, entries: list[Entry], *, deadline: Deadline, is_ahead: bool = False
    ) -> None:
        paths = [entry.path for entry in entries]
        self._urls.prepare(version, paths, deadline=deadline, is_ahead=is_ahead)

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
        if entry.reference is None:
            url = self._urls.get(version, entry.path, deadline=deadline)
            if entry.path in self.refuses:
                self._urls.forget(version, entry.path, url)
                raise UrlExpired("refused")
        content = entry.path.encode()
        yield ByteStream(size=len(content), etag="", pieces=iter([content[start:stop]]))


class Program:
    """A program that lists folders and reads files."""

    def __init__(self, background: Background, folder: Path, sources: FakeSources, prefix: str):
        self.fetcher = Fetcher(
            resources(background, folder, sources, timeout_s=100),
            verify_always=False,
            path_prefix=prefix,
            drop_pages=lambda inodes: None,
        )

    async def list(self, *paths: str) -> None:
        """List those folders."""
        table = await self.fetcher.manifest(VERSION)
        for path in paths:
            number = 0
            for name in filter(None, path.split("/")):
                found = table.folder_by_name(number, name)
                assert found is not None
                number = found.id
            folder = table.folder(number)
            assert folder is not None
            self.fetcher.listed.was_listed(VERSION, folder, path)

    async def read(self, *paths: str) -> None:
        """Read files one after another, each once all questions are answered."""
        for path in paths:
            await self.read_now(path)
            await self.settle()

    async def read_now(self, path: str) -> None:
        """Read a file."""
        table = await self.fetcher.manifest(VERSION)
        file = table._file_at(path)
        assert file is not None
        reader = self.fetcher.reader(VERSION, file, file.id)
        try:
            assert await reader.read(0, 4096) == path.encode()
        finally:
            reader.close()

    async def settle(self) -> None:
        """Wait until nothing is asked any more."""
        with trio.fail_after(100):
            while self.fetcher.listed.under_way:
                await trio.sleep(0.001)


@asynccontextmanager
async def running(folder: Path, sources: FakeSources, prefix: str = "") -> AsyncIterator[Program]:
    async with in_background() as background:
        program = Program(background, folder, sources, prefix)
        try:
            yield program
        finally:
            program.fetcher.close()


def entry(path: str, reference: Reference | None = None) -> Entry:
    digest = Digest(Algorithm.MD5, hashlib.md5(path.encode()).hexdigest())
    return Entry(path=path, size=len(path), digest=digest, reference=reference)


def folder_of(name: str, count: int) -> list[str]:
    return [f"{name}/{number:05}" for number in range(count)]


def shuffled(paths: Sequence[str], count: int = READS) -> list[str]:
    return random.Random(1).sample(paths, count)


@pytest.fixture
def api() -> Api:
    return Api()


async def test_a_file_of_a_listed_folder_costs_one_question_at_most(
    api: Api, tmp_path: Path
) -> None:
    paths = [*folder_of("a", 300), *folder_of("b/c", 300)]
    sources = FakeSources(api, tmp_path, map(entry, [*paths, "b/d/other", "top"]))
    async with running(tmp_path, sources) as program:
        await program.list("a", "b", "b/c")
        first, *others = shuffled(paths)
        await program.read(first)
        # Alone, so that it comes no later; and beside it what was listed, in one question.
        assert api.singles == [first]
        assert [set(batch) for batch in api.batches] == [set(paths) - {first}]
        await program.read(*others)
        assert len(api.questions) == 2


async def test_a_single_file_causes_no_other_to_be_asked_for(api: Api, tmp_path: Path) -> None:
    paths = folder_of("a", 300)
    sources = FakeSources(api, tmp_path, map(entry, [*paths, *folder_of("b", 300)]))
    async with running(tmp_path, sources) as program:
        await program.read(paths[7])
        assert api.questions == [[paths[7]]]
        # Nor where another folder was listed.
        await program.list("b")
        await program.read("a/00100")
        assert not [path for path in api.times if path.startswith("b")]


async def test_one_question_spans_folders(api: Api, tmp_path: Path) -> None:
    folders = [f"class{number:03}" for number in range(500)]
    paths = [path for name in folders for path in folder_of(name, 5)]
    sources = FakeSources(api, tmp_path, map(entry, paths))
    async with running(tmp_path, sources) as program:
        await program.list("", *folders)
        await program.read(*shuffled(paths))
        assert len(api.batches) <= len(paths) // NAMES + 1
        assert len(api.singles) <= len(api.batches)
        assert api.times == Counter(paths)


async def test_who_reads_few_of_many_asks_for_no_more_than_it_may(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "NAMES", 10)
    paths = folder_of("a", 5_000)
    sources = FakeSources(api, tmp_path, map(entry, paths))
    async with running(tmp_path, sources) as program:
        await program.list("a")
        allowed = [1, 3, 7, 11, 15, 19]
        chosen = shuffled(paths, len(allowed))
        for count, path in zip(allowed, chosen, strict=True):
            await program.read(path)
            assert len(api.singles) <= len(chosen)
            assert len(api.batches) == count
        assert max(map(len, api.batches)) == 10
        assert max(api.times.values()) == 1
        # What waits to be used is bounded too.
        monkeypatch.setattr(listed, "MOST_UNUSED", 10 * allowed[-1])
        await program.read(*shuffled(paths, READS)[len(allowed) :])
        assert len(api.batches) == allowed[-1]
    assert listed.MOST_AT_ONCE == MOST_AT_ONCE == 4


async def test_readers_side_by_side_ask_for_nothing_twice(api: Api, tmp_path: Path) -> None:
    paths = folder_of("a", 3 * NAMES)
    sources = FakeSources(api, tmp_path, map(entry, paths))
    async with running(tmp_path, sources) as program:
        await program.list("a")
        async with trio.open_nursery() as readers:
            for path in shuffled(paths, 12):
                readers.start_soon(program.read_now, path)
        await program.settle()
        asked = Counter(path for batch in api.batches for path in batch)
        assert max(asked.values()) == 1
        assert len(api.batches) == 3


async def test_what_is_here_and_what_is_not_the_servers_is_not_asked_for(
    api: Api, tmp_path: Path
) -> None:
    paths = folder_of("a", 100)
    outside = Reference(uri="https://elsewhere.example/x", token="t")
    references = [entry(f"a/{number:05}-reference", outside) for number in range(100)]
    sources = FakeSources(api, tmp_path, [*map(entry, paths), *references])
    here = paths[::9]
    async with running(tmp_path, sources) as program:
        for path in here:
            await program.read(path)
    api.questions.clear()
    # The next mount of the same cache knows no URL.
    sources = FakeSources(api, tmp_path, [*map(entry, paths), *references])
    async with running(tmp_path, sources, prefix="a/000") as program:
        await program.list("a")
        await program.read(*here, references[3].path)
        assert api.questions == []
        await program.read(paths[1])
        assert api.singles == [paths[1]]
        assert [set(batch) for batch in api.batches] == [set(paths) - {paths[1]} - set(here)]
    api.questions.clear()
    async with running(tmp_path, sources, prefix="a/0001") as program:
        await program.list("a")
        sources._urls.forget(VERSION, paths[11], f"https://store/{paths[11]}")
        await program.read(paths[11])
        asked = {path for batch in api.batches for path in batch}
        assert asked == {path for path in paths if path.startswith("a/0001")} - {paths[11]} - set(
            here
        )


async def test_refused_urls_are_asked_for_anew(api: Api, tmp_path: Path) -> None:
    paths = folder_of("a", 500)
    sources = FakeSources(api, tmp_path, map(entry, paths))
    async with running(tmp_path, sources) as program:
        await program.list("a")
        await program.read(paths[0], paths[400])
        assert len(api.questions) == 2
        sources.refuses = {paths[7]}
        for again in (1, 2):
            # One that is always refused: its own URL twice, and at most one question beside it.
            asked = len(api.questions)
            with pytest.raises(UrlExpired):
                await program.read(paths[7])
            await program.settle()
            await program.read(paths[20 * again])
            assert len(api.questions) - asked <= 5
            # The others' are good once more.
            asked = len(api.questions)
            await program.read(*paths[100 * again : 100 * again + 50 : 10])
            assert len(api.questions) == asked


async def test_files_that_the_server_lacks_do_not_cost_the_others_a_question(
    api: Api, tmp_path: Path
) -> None:
    paths = folder_of("a", 500)
    api.lacks = set(paths[100:200])
    sources = FakeSources(api, tmp_path, map(entry, paths))
    async with running(tmp_path, sources) as program:
        await program.list("a")
        await program.read(paths[0])
        for path in paths[100:110]:
            with pytest.raises(RemoteError, match="the server gave no URL for"):
                await program.read(path)
            await program.settle()
        await program.read(*paths[300:310])
        assert len(api.batches) == 1
        assert set(api.singles) == {paths[0], *paths[100:110]}
        assert len(api.singles) <= 1 + 10 * FUTILE_ATTEMPTS


async def test_a_server_that_does_not_answer_is_left_alone_for_a_while(
    api: Api, tmp_path: Path
) -> None:
    paths = folder_of("a", 500)
    api.most_names = 100
    sources = FakeSources(api, tmp_path, map(entry, paths))
    async with running(tmp_path, sources) as program:
        await program.list("a")
        chosen = shuffled(paths)
        await program.read(*chosen)
        assert len(api.batches) == 1
        assert api.singles == chosen

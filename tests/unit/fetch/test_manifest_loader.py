"""From a manifest's bytes to its table: what is asked for again, and where the work is done."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
import trio
from fetching import new_manifests
from mounts import check
from tables import VERSION

from wbfs.fetch.apart import builder, tables
from wbfs.fetch.apart.builder import Builder
from wbfs.fetch.apart.manifests import ManifestLoader
from wbfs.fetch.apart.tables import Build, Done
from wbfs.fetch.work.background import Background, in_background
from wbfs.model.digests import Algorithm, new_hasher
from wbfs.model.entries import Version
from wbfs.model.errors import RemoteProtocolError, StoreError, TooLarge
from wbfs.remote.api import artifacts
from wbfs.remote.http.transport import Deadline

MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="
GOOD = {"a": {"digest": MD5, "size": 1}}
HASHED = f"wandb-artifact-manifest-v1\na:{MD5}\n"


def document(contents: object) -> bytes:
    return json.dumps({"version": 1, "contents": contents}).encode()


def version(digest: str) -> Version:
    return replace(VERSION, digest=digest)


class FakeApi:
    """Gives one manifest after the other, the last one for ever."""

    def __init__(self, *bodies: bytes) -> None:
        self.bodies = list(bodies)
        self.asked = 0

    def manifest(
        self, version: Version, file: IO[bytes], *, limit: int, deadline: Deadline, is_patient: bool
    ) -> None:
        assert file.tell() == 0
        self.asked += 1
        file.write(self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0])


class FakeReach:
    def ask(self, question: Callable[[Deadline], None], deadline: Deadline) -> None:
        question(deadline)


def load(cache: Path, api: FakeApi, digest: str) -> list[str]:
    """Return the paths of the files that a version turns out to have."""
    loader: Any = ManifestLoader(
        api=api,  # type: ignore[arg-type]
        reach=FakeReach(),  # type: ignore[arg-type]
        manifests=new_manifests(cache, "server"),
        background=Background(None),  # type: ignore[arg-type]
        limit=1 << 22,
    )
    table = loader.load(version(digest), deadline=Deadline.after(100))
    try:
        return [entry.path for entry in table.entries()]
    finally:
        table.close()


@pytest.fixture
def digest() -> str:
    """Return what the good manifest hashes to."""
    hasher = new_hasher(Algorithm.MD5)
    hasher.update(HASHED.encode())
    return hasher.hexdigest()


@pytest.mark.parametrize(
    "damaged", [b"", b"<html>", document([]), document({"b": {"digest": MD5}}), document({})]
)
def test_what_came_damaged_is_fetched_again(tmp_path: Path, digest: str, damaged: bytes) -> None:
    api = FakeApi(damaged, document(GOOD))
    assert load(tmp_path, api, digest) == ["a"]
    assert api.asked == 2
    # The table answers from now on.
    assert load(tmp_path, api, digest) == ["a"]
    assert api.asked == 2


def test_what_stays_damaged_is_an_error(tmp_path: Path, digest: str) -> None:
    api = FakeApi(b"<html>")
    with pytest.raises(RemoteProtocolError, match="the manifest of e/p/c:v0 is none"):
        load(tmp_path, api, digest)
    assert api.asked == 3
    assert list((tmp_path / "manifests/server").iterdir()) == []


def test_another_digest_is_the_servers_word_in_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = FakeApi(document(GOOD))
    assert load(tmp_path, api, "0" * 32) == ["a"]
    assert api.asked == 3
    assert "does not match its digest" in caplog.text


ENDLESS = """
import sys, time
from pathlib import Path
from wbfs.fetch.apart.tables import Build, prepare
obey = prepare(memory=100 << 20)
manifest, table = map(Path, sys.argv[1:])
order = Build(manifest=manifest, table=table, version_path="v", artifact="a", digest="",
              digest_algorithm="")
try:
    obey(order)
except MemoryError:
    print("out of memory")
print(Path("/proc/self/oom_score_adj").read_text().strip())
"""


def test_a_process_has_a_bound_of_memory(tmp_path: Path) -> None:
    manifest, table = tmp_path / "manifest", tmp_path / "table"
    rows = b",".join(b'"%x":0' % number for number in range(1 << 20))
    manifest.write_bytes(b'{"version":1,"contents":{%s}}' % rows)
    table.touch()
    printed = check(sys.executable, "-c", ENDLESS, manifest, table)
    assert printed.split("\n") == ["out of memory", "1000", ""]


class EndlessStream:
    size, etag = None, ""

    @property
    def pieces(self) -> Iterator[bytes]:
        return itertools.repeat(b"x" * 1000)


def test_a_manifest_without_an_end_is_left_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def open_stream(*_: object, **__: object) -> Iterator[EndlessStream]:
        yield EndlessStream()

    class FakeGraphQL:
        def execute(self, *_: object, **__: object) -> dict[str, Any]:
            return {"artifact": {"currentManifest": {"file": {"directUrl": "http://h/m"}}}}

    class FakeTransport:
        extra_headers: Mapping[str, str] = {}

    monkeypatch.setattr(artifacts, "open_stream", open_stream)
    api = artifacts.WandbApi.__new__(artifacts.WandbApi)
    api.__dict__.update(_graphql=FakeGraphQL(), _transport=FakeTransport())
    file = io.BytesIO()
    with pytest.raises(TooLarge, match=r"of e/p/c:v0 has more than 1234567 bytes.*WBFS_MANIFEST"):
        api.manifest(version(""), file, limit=1_234_567, deadline=Deadline.after(60))
    assert file.tell() <= 1_234_567


class Asked(Exception):
    """Ends a test at a question."""


@pytest.mark.parametrize("path", ["a/" * 100 + "f", "a" * 200 + "f"])
def test_a_small_manifest_of_many_folders_is_as_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    sizes: list[int] = []

    def obey(self: object, order: object, *, size: int) -> None:
        sizes.append(size)
        raise Asked

    monkeypatch.setattr(builder.Builder, "obey", obey)
    body = document({f"{number}-{path}": GOOD["a"] for number in range(5000)})
    with pytest.raises(Asked):
        load(tmp_path, FakeApi(body), "")
    assert len(body) < builder.LARGE_BYTES
    assert (sizes[0] >= builder.LARGE_BYTES) == ("/" in path)


@pytest.fixture
def always_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "LARGE_BYTES", 0)


def build(made: Builder, table: Path, body: bytes) -> Done:
    table.touch()
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        order = Build(
            manifest=Path(file.name),
            table=table,
            version_path="e/p/c:v0",
            artifact="server/id",
            digest="",
            digest_algorithm="MANIFEST_MD5",
        )
        return made.obey(order, size=len(body))


async def test_a_process_says_what_a_thread_says(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = {"digest": MD5, "ref": "wandb-artifact://41/x"}
    bodies = [b"", b"[]", document([]), document(GOOD), document({"ä": link, "b": 5})]
    made = Builder(Background(nursery))
    said: list[list[object]] = []
    for limit in (0, 1 << 30):
        monkeypatch.setattr(builder, "LARGE_BYTES", limit)
        said.append([])
        for number, body in enumerate(bodies):
            table = tmp_path / f"{limit}-{number}"
            try:
                done = await trio.to_thread.run_sync(build, made, table, body)
            except RemoteProtocolError as error:
                said[-1].append(str(error))
            else:
                said[-1].append((done, table.read_bytes()))
    assert said[0] == said[1]
    assert [type(one) for one in said[0]] == [str, str, str, tuple, tuple]


def stopped(started: list[subprocess.Popen[bytes]], count: int) -> type[subprocess.Popen[bytes]]:
    """Return a Popen the first `count` processes of which are stopped; all are put in `started`."""

    class Stopped(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if len(started) < count:
                os.kill(self.pid, signal.SIGSTOP)
            started.append(self)

    return Stopped


async def first_of(started: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    while not started:
        await trio.sleep(0.01)
    return started[0]


@pytest.mark.usefixtures("always_a_process")
@pytest.mark.parametrize("end", ["killed", "silent", "late"])
async def test_a_process_that_does_not_answer_is_replaced(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(subprocess, "Popen", stopped(started, 1))
    if end == "late":
        # Long enough for the second one.
        monkeypatch.setattr(builder, "PATIENCE_S", 15)
    if end == "silent":
        monkeypatch.setattr(tables, "PROGRAM", replace(tables.PROGRAM, silent_s=15))
    made = Builder(Background(nursery))
    done: list[Done] = []

    async def run() -> None:
        work = partial(build, made, tmp_path / "table", document(GOOD))
        done.append(await trio.to_thread.run_sync(work))

    with trio.fail_after(200):
        async with trio.open_nursery() as ours:
            ours.start_soon(run)
            process = await first_of(started)
            if end == "killed":
                process.kill()
    assert done == [Done(digest_matches=False)]
    assert len(started) == 2
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.usefixtures("always_a_process")
async def test_two_processes_that_are_killed_are_an_error(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.kill()

    monkeypatch.setattr(subprocess, "Popen", Killed)
    made = Builder(Background(nursery))
    work = partial(build, made, tmp_path / "table", document(GOOD))
    with trio.fail_after(200), pytest.raises(StoreError, match="by signal 9: is there enough mem"):
        await trio.to_thread.run_sync(work)
    # The next one doesn't find out the same once more, just now.
    monkeypatch.setattr(subprocess, "Popen", None)
    with trio.fail_after(200), pytest.raises(StoreError, match="by signal 9: is there enough mem"):
        await trio.to_thread.run_sync(work)


@pytest.mark.usefixtures("always_a_process")
@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
async def test_without_a_process_it_is_done_here(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    class NotOne(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(subprocess, "Popen", NotOne)
    made = Builder(Background(nursery))
    for number in range(3):
        table = tmp_path / f"{number}"
        work = partial(build, made, table, document(GOOD))
        with trio.fail_after(200):
            assert await trio.to_thread.run_sync(work) == Done(digest_matches=False)
        assert table.stat().st_size


@pytest.mark.usefixtures("always_a_process")
async def test_the_end_of_the_session_leaves_neither_process_nor_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(subprocess, "Popen", stopped(started, 1))
    with trio.fail_after(200):
        async with in_background() as background, trio.open_nursery() as ours:
            work = partial(build, Builder(background), tmp_path / "table", document(GOOD))
            ours.start_soon(partial(trio.to_thread.run_sync, work, abandon_on_cancel=True))
            await first_of(started)
            ours.cancel_scope.cancel()
    assert started[0].returncode == -signal.SIGKILL
    assert not (tmp_path / "table").exists()

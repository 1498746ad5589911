"""From a manifest's bytes to its table: what is asked for again, and where the work is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import trio
from fetching import new_manifests
from mounts import wait_until
from tables import VERSION

from wbfs.fetch.apart import builders, building
from wbfs.fetch.apart.builders import Builders
from wbfs.fetch.apart.building import Build, Done
from wbfs.fetch.apart.manifests import ManifestLoader
from wbfs.model.digests import Algorithm, new_hasher
from wbfs.model.entries import Version
from wbfs.model.errors import RemoteError, RemoteProtocolError, StoreError
from wbfs.remote.transport import Deadline

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

    def manifest(self, version: Version, file: IO[bytes], *, deadline: Deadline) -> None:
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
    )
    table = loader.load(version(digest), deadline=Deadline.after(10))
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


@pytest.fixture
def always_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "LARGE_BYTES", 0)


def build(made: Builders, table: Path, body: bytes) -> Done:
    table.touch()
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        order = Build(
            manifest_fd=file.fileno(),
            table=str(table),
            version_path="e/p/c:v0",
            digest="",
            digest_algorithm="MANIFEST_MD5",
        )
        return made.obey(order, size=len(body))


async def test_a_process_says_what_a_thread_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = {"digest": MD5, "ref": "wandb-artifact://41/x"}
    bodies = [b"", b"[]", document([]), document(GOOD), document({"ä": link, "b": 5})]
    said: list[list[object]] = []
    for limit in (0, 1 << 30):
        monkeypatch.setattr(builders, "LARGE_BYTES", limit)
        said.append([])
        for number, body in enumerate(bodies):
            table = tmp_path / f"{limit}-{number}"
            try:
                done = await trio.to_thread.run_sync(build, Builders(), table, body)
            except RemoteProtocolError as error:
                said[-1].append(str(error))
            else:
                said[-1].append((done, table.read_bytes()))
    assert said[0] == said[1]
    assert [type(one) for one in said[0]] == [str, str, str, tuple, tuple]


def held(started: list[subprocess.Popen[bytes]]) -> type[subprocess.Popen[bytes]]:
    """Return a Popen whose processes are stopped as they begin; they are put in `started`."""

    class Held(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            os.kill(self.pid, signal.SIGSTOP)
            started.append(self)

    return Held


@pytest.mark.usefixtures("always_a_process")
@pytest.mark.parametrize("end", ["killed", "late", "closed", "cancelled"])
async def test_a_process_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(subprocess, "Popen", held(started))
    if end == "late":
        monkeypatch.setattr(builders, "PATIENCE_S", 0.2)
    made = Builders()
    failures: list[Exception] = []

    def run() -> None:
        try:
            build(made, tmp_path / "table", document(GOOD))
        except (RemoteError, StoreError) as error:
            failures.append(error)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, run)
            while not started:
                await trio.sleep(0.01)
            if end == "killed":
                started[0].kill()
            elif end == "closed":
                await trio.to_thread.run_sync(made.close)
                assert not (tmp_path / "table").exists()
            elif end == "cancelled":
                nursery.cancel_scope.cancel()
    # Nobody is left to be waited for.
    wait_until(lambda: started[0].returncode == -signal.SIGKILL, what="the process is reaped")
    texts = {
        "killed": "was ended by signal 9",
        "late": "takes too long",
        "closed": "the mount is being taken down",
    }
    assert [texts[end] in str(failure) for failure in failures] == [True] * (end in texts)


@pytest.mark.usefixtures("always_a_process")
async def test_a_process_whose_starter_is_gone_removes_the_table(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.touch()
    done = await trio.run_process(
        [sys.executable, "-m", building.__name__, str(table)], stdin=b"", check=False
    )
    assert done.returncode == 1
    assert not table.exists()

"""The lane fetches what is ordinary, and leaves everything else, whatever becomes of it."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fetching import unbounded
from scripted import Server, reply, scripted_servers

from wbfs.fetch.small.lane import MOST_UNUSUAL, Answer, Lane
from wbfs.fetch.small.orders import Done, Order
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, Reference
from wbfs.model.errors import StoreError, UrlExpired
from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.partial import PartialBlobs
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.folder import store_error

CONTENT = b"some bytes" * 5_000
WIDTH = 3
PATIENCE_S = 20.0


@pytest.fixture
def server() -> Iterator[Server]:
    with scripted_servers() as start:
        yield start()


class Lanes:
    """A lane, its cache, and what it has answered and left."""

    def __init__(self, cache_dir: Path, server: Server, timeout_s: float = 60.0) -> None:
        cache_dir.mkdir()
        sdk_cache = SdkCache(cache_dir / "sdk")
        self.cache_dir = cache_dir
        self.server = server
        self.blobs = Blobs(
            cache_dir, sdk_cache, room=unbounded(cache_dir, sdk_cache), file_mode=0o600
        )
        self.transport = Transport()
        self._outcomes: queue.SimpleQueue[tuple[int, Done | Exception | None]] = queue.SimpleQueue()
        self.lane = Lane(
            self.transport,
            self.blobs,
            PartialBlobs(cache_dir, self.blobs),
            width=WIDTH,
            timeout_s=timeout_s,
            answer=self._note,
            leave=self._leave,
        )
        self.left_orders: list[Order] = []

    def _leave(self, number: int, order: Order) -> None:
        self.left_orders.append(order)
        self._outcomes.put((number, None))

    def _note(self, answers: list[Answer]) -> None:
        for number, done, error in answers:
            self._outcomes.put((number, done or error))

    def outcomes(self, *orders: Order) -> dict[int, Done | Exception | None]:
        """Have files fetched; return what became of each: None of those that were left."""
        self.lane.take(enumerate(orders))
        outcomes = {}
        for _ in orders:
            number, outcome = self._outcomes.get(timeout=PATIENCE_S)
            outcomes[number] = outcome
            if outcome is None:
                self.lane.came_back(number)
        return outcomes

    def connect(self, count: int = 1) -> None:
        """Have some connections that are idle."""
        together = threading.Barrier(count)

        def answer(handler: BaseHTTPRequestHandler) -> None:
            together.wait(PATIENCE_S)
            reply(200, b"1")(handler)

        def read() -> None:
            location = Location(url=f"{self.server.url}/first")
            with open_stream(self.transport, location, deadline=Deadline.after(10)) as stream:
                assert b"".join(map(bytes, stream.pieces)) == b"1"

        self.server.answers = [answer]
        threads = [threading.Thread(target=read) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.server.connections == count
        self.server.seen.clear()

    def connect_again(self) -> None:
        """Have an idle connection in place of one that was closed."""
        answers, self.server.answers = self.server.answers, [reply(200, b"1")]
        location = Location(url=f"{self.server.url}/first")
        with open_stream(self.transport, location, deadline=Deadline.after(10)) as stream:
            assert b"".join(map(bytes, stream.pieces)) == b"1"
        self.server.answers = answers

    def left(self) -> int:
        """Return the number of the next order that is left."""
        number, outcome = self._outcomes.get(timeout=PATIENCE_S)
        assert outcome is None
        return number

    def is_quiet(self) -> bool:
        """Whether nothing has become of any other order."""
        return self._outcomes.empty()

    def blobs_of_another(self) -> Blobs:
        """Return the blobs as another process sees them."""
        sdk_cache = SdkCache(self.cache_dir / "sdk")
        return Blobs(self.cache_dir, sdk_cache, room=self.blobs.room, file_mode=0o600)

    def files(self) -> list[str]:
        """Return the names of all files of the cache's folders."""
        folders = [self.cache_dir / name for name in ("blobs", "partial")]
        return [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]

    def order(self, content: bytes = CONTENT, **changed: Any) -> Order:
        digest = Digest(Algorithm.MD5, hashlib.md5(content).hexdigest())
        entry = {"path": "file", "size": len(content), "digest": digest}
        order = {"path": "a/b/c:v0/file", "url": f"{self.server.url}/file?X-Signature=secret"}
        order |= {"by_gateway": False, "is_unread": False}
        for name, value in changed.items():
            (order if name in order else entry)[name] = value
        return Order(entry=Entry(**entry), **order)  # type: ignore[arg-type]


@pytest.fixture
def lanes(tmp_path: Path, server: Server) -> Lanes:
    return Lanes(tmp_path / "cache", server)


def test_files_come_over_connections_that_are_there(lanes: Lanes) -> None:
    contents = [CONTENT[number:] for number in range(40)]
    orders = [
        lanes.order(content, url=f"{lanes.server.url}/{number}")
        for number, content in enumerate(contents)
    ]
    lanes.connect(WIDTH)
    lanes.server.answers = [lambda handler: reply(200, contents[int(handler.path[1:])])(handler)]
    outcomes = lanes.outcomes(*orders)
    assert lanes.server.connections == WIDTH
    assert sorted(path for path, _ in lanes.server.seen) == sorted(f"/{n}" for n in range(40))
    others = lanes.blobs_of_another()
    for number, order in enumerate(orders):
        done = outcomes[number]
        assert isinstance(done, Done)
        assert done.known is not None
        blob = order.entry.blob
        assert others.open(blob) is None, "it would have to be checked"
        others.trust(blob, done.known)
        opened = others.open(blob)
        assert opened is not None
        assert os.pread(opened.fd, len(CONTENT), 0) == contents[number]


def test_what_is_unread_is_so_until_it_is_opened(lanes: Lanes) -> None:
    lanes.connect()
    lanes.server.answers = [reply(200, CONTENT)]
    order = lanes.order(is_unread=True)
    done = lanes.outcomes(order)[0]
    assert isinstance(done, Done)
    assert done.known is not None
    others = lanes.blobs_of_another()
    others.trust(order.entry.blob, done.known)
    opened = others.open(order.entry.blob)
    assert opened is not None
    assert opened.was_unread


def test_without_a_connection_files_are_left_and_no_more_than_may_be_on_their_way(
    lanes: Lanes,
) -> None:
    lanes.lane.take((number, lanes.order()) for number in range(2 * WIDTH))
    left = [lanes.left() for _ in range(WIDTH)]
    assert left == list(range(WIDTH))
    lanes.lane.came_back(1)
    assert lanes.left() == WIDTH
    assert lanes.is_quiet()
    assert not lanes.server.seen


@pytest.mark.parametrize(
    "changed",
    [
        {"by_gateway": True},
        {"url": "", "reference": Reference(uri="file:///x", token="x")},
        {"size": None},
        {"size": 0},
        {"digest": None, "reference": Reference(uri="https://x/y", token="x")},
        {"url": "no URL"},
        {"url": "https://[/"},
    ],
)
def test_what_is_to_be_had_in_another_way_is_left(lanes: Lanes, changed: dict[str, Any]) -> None:
    lanes.connect()
    assert lanes.outcomes(lanes.order(**changed)) == {0: None}
    assert not lanes.server.seen


@pytest.mark.parametrize("status", [401, 403])
def test_a_url_that_is_refused_is_asked_for_once(lanes: Lanes, status: int) -> None:
    lanes.connect()
    lanes.server.answers = [reply(status, CONTENT)]
    error = lanes.outcomes(lanes.order())[0]
    assert isinstance(error, UrlExpired)
    assert "secret" not in str(error)
    assert len(lanes.server.seen) == 1


@pytest.mark.parametrize("status", [200, 404, 503])
def test_what_comes_otherwise_than_it_should_is_left(lanes: Lanes, status: int) -> None:
    lanes.connect()
    lanes.server.answers = [reply(status, CONTENT[::-1])]
    assert lanes.outcomes(lanes.order()) == {0: None}
    # Of wrong bytes it is known, so that they are fetched twice and no more.
    assert [order.was_wrong for order in lanes.left_orders] == [status == 200]
    # It goes on.
    lanes.server.answers = [reply(200, CONTENT)]
    lanes.connect_again()
    assert isinstance(lanes.outcomes(lanes.order())[0], Done)
    assert lanes.files() == [f"md5-{hashlib.md5(CONTENT).hexdigest()}"]


def test_a_server_that_is_always_unusual_is_asked_no_more(lanes: Lanes) -> None:
    lanes.server.answers = [reply(203, CONTENT)]
    for _ in range(MOST_UNUSUAL):
        lanes.connect_again()
        lanes.outcomes(lanes.order())
    lanes.connect_again()
    lanes.server.seen.clear()
    assert lanes.outcomes(lanes.order()) == {0: None}
    assert not lanes.server.seen
    # Its connection is there for others.
    idle = lanes.transport.idle(lanes.server.url + "/x", peer=Peer.WANDB_STORE)
    assert idle is not None
    idle.close()


def test_what_does_not_come_is_left(tmp_path: Path, server: Server) -> None:
    lanes = Lanes(tmp_path / "cache", server, timeout_s=2)
    lanes.connect()
    ended = threading.Event()

    def stall(handler: BaseHTTPRequestHandler) -> None:
        reply(200, CONTENT[:100], Content_Length=str(len(CONTENT)))(handler)
        ended.wait(PATIENCE_S)

    server.answers = [stall]
    try:
        assert lanes.outcomes(lanes.order()) == {0: None}
    finally:
        ended.set()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_told(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    lanes.connect()
    lanes.server.answers = [reply(200, CONTENT)]

    def fail(*_: object) -> None:
        raise store_error("create a file", OSError(number, os.strerror(number)))

    with monkeypatch.context() as patch:
        patch.setattr(PartialBlobs, "small", fail)
        assert isinstance(lanes.outcomes(lanes.order())[0], StoreError)
    assert isinstance(lanes.outcomes(lanes.order())[0], Done)


def test_a_defect_costs_no_more_than_the_file(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lanes.connect()
    lanes.server.answers = [reply(200, CONTENT)]
    for owner, method in ((PartialBlobs, "small"), (Transport, "idle")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, lambda *_, **__: 1 / 0)
            assert lanes.outcomes(lanes.order()) == {0: None}
        assert "defect" in caplog.text
        assert "secret" not in caplog.text
        caplog.clear()
    assert isinstance(lanes.outcomes(lanes.order())[0], Done)

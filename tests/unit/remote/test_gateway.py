"""What a gateway is asked and told, and that the store is asked at once where it fails."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

import pytest
from ports import free_port
from scripted import Server, reply, scripted_servers

from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Blob
from wbfs.model.errors import RemoteError
from wbfs.remote.http import gateway as gateways
from wbfs.remote.http.bytes import Location
from wbfs.remote.http.gateway import Gateway
from wbfs.remote.http.transport import Deadline, Transport

CONTENT = bytes(range(256)) * 40
SIZE = len(CONTENT)
HEX = hashlib.md5(CONTENT).hexdigest()
BLOB = Blob(key=f"md5-{HEX}", size=SIZE, digest=Digest(Algorithm.MD5, HEX))
QUERY = "X-Signature=secret"
SILENT_S = 60.0

Answer = Callable[[BaseHTTPRequestHandler], None]


def right(handler: BaseHTTPRequestHandler, *, status: int = 206) -> None:
    """Answer as a server that knows ranges."""
    asked = handler.headers.get("Range")
    if asked is None:
        reply(200, CONTENT)(handler)
        return
    first, last = asked.removeprefix("bytes=").split("-")
    start, stop = int(first), int(last or SIZE - 1) + 1
    span = {"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}"}
    reply(status, CONTENT[start:stop], **span)(handler)


def whole(handler: BaseHTTPRequestHandler) -> None:
    """Answer as one that knows none."""
    reply(200, CONTENT)(handler)


@dataclass
class Setting:
    """A gateway in front of a store, and who asks."""

    server: Server
    store: Server
    transport: Transport
    gateway: Gateway

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Read as a file is, going on where an answer ends early."""
        location = Location(url=f"{self.store.url}/object?{QUERY}")
        came = b""
        for _ in range(3):
            try:
                with self.gateway.open(
                    BLOB, location, start=start + len(came), stop=stop, deadline=Deadline.after(100)
                ) as stream:
                    for piece in stream.pieces:
                        came += piece
            except RemoteError:
                continue
            return came
        raise AssertionError("it never ended")


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    monkeypatch.setattr(gateways, "PATIENCE_S", SILENT_S / 2)
    # Whoever names a gateway means it.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    transport = Transport(
        server="http://api.example", extra_headers={"X-Login": "secret"}, proxies={"http": ""}
    )
    with scripted_servers() as start:
        server, store = start(), start()
        server.answers, store.answers = [right], [right]
        yield Setting(server, store, transport, Gateway(server.url, transport))
    transport.close()


def test_it_is_asked_by_the_digest_and_told_the_signed_url(setting: Setting) -> None:
    assert setting.read(100, 300) == CONTENT[100:300]
    ((path, headers),) = setting.server.seen
    assert path == f"/md5/{HEX}"
    assert headers.pop("User-Agent").startswith("wbfs/")
    assert headers == {
        "Host": setting.server.url.partition("//")[2],
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "X-Blob-Origin": f"{setting.store.url}/object?{QUERY}",
        "Range": "bytes=100-299",
    }
    assert setting.store.seen == []
    assert setting.gateway.report() == {"url": setting.server.url, "bytes": 200, "trouble": None}


def cut(handler: BaseHTTPRequestHandler) -> None:
    reply(200, CONTENT[:500], Content_Length=str(SIZE))(handler)


def hangs_in_the_middle(handler: BaseHTTPRequestHandler) -> None:
    cut(handler)
    handler.wfile.flush()
    time.sleep(SILENT_S)


def trickles(handler: BaseHTTPRequestHandler) -> None:
    reply(200, b"", Content_Length=str(SIZE))(handler)
    for number in range(int(SILENT_S / 0.1)):
        handler.wfile.write(CONTENT[number : number + 1])
        handler.wfile.flush()
        time.sleep(0.1)


@pytest.mark.parametrize(
    "answer",
    [
        reply(404),
        reply(403),
        reply(500),
        reply(503, Retry_After="60"),
        reply(429, Retry_After="60"),
        reply(302, Location="http://127.0.0.1:9/elsewhere"),
        reply(302, Location="/elsewhere"),
        reply(416),
        reply(200, CONTENT[:-1]),
        reply(200, CONTENT + b"x"),
        reply(200, CONTENT + b"x", Transfer_Encoding="gzip"),
        reply(204),
        lambda handler: time.sleep(SILENT_S),
        lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"),
        cut,
        hangs_in_the_middle,
        trickles,
    ],
)
def test_where_it_fails_the_store_is_asked(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(gateways, "PATIENCE_S", 0.3)
    setting.server.answers = [answer]
    began_s = time.monotonic()
    assert setting.read() == CONTENT
    assert time.monotonic() - began_s < SILENT_S
    # It is left alone then.
    asked = len(setting.server.seen)
    assert setting.read() == CONTENT
    assert len(setting.server.seen) == asked == 1
    assert setting.gateway.trouble
    assert "secret" not in setting.gateway.trouble
    assert not setting.gateway.is_asked


@pytest.mark.parametrize("answer", [whole, reply(206, CONTENT[1:3], Content_Range="bytes 1-2/9")])
def test_it_must_know_ranges(setting: Setting, answer: Answer) -> None:
    setting.server.answers = [answer]
    assert setting.read(100, 300) == CONTENT[100:300]
    assert len(setting.store.seen) == 1
    assert setting.gateway.trouble


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nobody_is_there_or_speaks_otherwise(setting: Setting, scheme: str) -> None:
    port = free_port() if scheme == "http" else setting.server.port
    gateway = setting.gateway = Gateway(f"{scheme}://127.0.0.1:{port}", setting.transport)
    assert setting.read() == CONTENT
    assert gateway.trouble


def test_what_the_store_refuses_is_no_trouble_of_the_gateway(setting: Setting) -> None:
    setting.server.answers = setting.store.answers = [reply(403)]
    with pytest.raises(AssertionError):
        setting.read()
    assert not setting.gateway.trouble


def test_one_request_finds_out_that_it_is_well_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.server.answers = [reply(500), right]
    assert setting.read() == CONTENT
    monkeypatch.setattr(gateways, "LEFT_ALONE_S", 0.0)
    setting.gateway.learn(BLOB, 0, trouble="another process had some")
    assert setting.read() == CONTENT
    assert (len(setting.server.seen), len(setting.store.seen)) == (2, 1)
    assert not setting.gateway.trouble


def test_what_was_wrong_is_not_asked_for_again(setting: Setting) -> None:
    assert setting.read() == CONTENT
    assert setting.gateway.has_brought(BLOB)
    setting.gateway.distrust(BLOB)
    assert "wrong bytes" in setting.gateway.trouble
    setting.gateway.learn(BLOB, SIZE, trouble="")
    assert setting.read() == CONTENT
    assert (len(setting.server.seen), len(setting.store.seen)) == (1, 1)


def test_many_readers_wait_for_a_silent_one_once(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways, "PATIENCE_S", 0.3)
    setting.server.answers = [lambda handler: time.sleep(SILENT_S)]
    began_s = time.monotonic()
    readers = [threading.Thread(target=setting.read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert time.monotonic() - began_s < SILENT_S
    assert len(setting.store.seen) == 4


def test_dragonfly_is_asked_as_a_proxy(setting: Setting) -> None:
    # Of a range it says 200, as of all.
    setting.server.answers = [lambda handler: right(handler, status=200)]
    setting.gateway = Gateway(f"dragonfly+{setting.server.url}", setting.transport)
    setting.store.url = "https://api.example"
    assert setting.read(100, 300) == CONTENT[100:300]
    ((path, headers),) = setting.server.seen
    assert path == f"http://api.example/object?{QUERY}"
    assert headers["Host"] == "api.example"
    assert headers["Range"] == "bytes=100-299"
    assert headers["X-Dragonfly-Use-P2P"] == "true"
    assert headers["X-Dragonfly-Content-For-Calculating-Task-ID"] == f"wandb/md5/{HEX}"
    assert "X-Login" not in headers

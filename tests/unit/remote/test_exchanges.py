"""A GET that never waits: it is sent as any other, and gives the whole file or is unusual."""

from __future__ import annotations

import gzip
import random
import select
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from certificates import Authority
from scripted import Server, reply, scripted_servers

from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.exchanges import HEAD_BYTES, Exchange, Unusual, is_last
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport

Handler = BaseHTTPRequestHandler
CONTENT = random.Random(1).randbytes((1 << 20) + 1)
URL = "/a%20folder/file.bin?X-Signature=a%2Fb&more"
PATIENCE_MS = 10_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["http", "https"])
def server(authority: Authority, request: pytest.FixtureRequest) -> Iterator[Server]:
    with scripted_servers(None if request.param == "http" else authority.context()) as start:
        yield start()


@pytest.fixture
def transport(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    transport = Transport(extra_headers={"X-Extra": "ours"})
    yield transport
    transport.close()


def asked_by_requests(transport: Transport, server: Server, content: bytes = CONTENT) -> None:
    """Read the file in the ordinary way, which leaves a connection behind."""
    server.answers = [reply(200, content)]
    with open_stream(
        transport, Location(url=server.url + URL), deadline=Deadline.after(10)
    ) as stream:
        assert b"".join(map(bytes, stream.pieces)) == content


def exchanged(transport: Transport, server: Server, size: int = len(CONTENT)) -> bytes:
    """Return the file as it comes over a connection that is there. Raises Unusual."""
    idle = transport.idle(server.url + URL, peer=Peer.WANDB_STORE)
    assert idle is not None
    exchange = Exchange(idle, size, memoryview(bytearray(HEAD_BYTES)))
    poll = select.poll()
    poll.register(exchange.fileno(), select.POLLIN)
    while (body := exchange.go_on()) is None:
        assert poll.poll(PATIENCE_MS), "it waits for what does not come"
    return bytes(body)


def test_without_a_connection_nothing_is_asked(server: Server, transport: Transport) -> None:
    assert transport.idle(server.url + URL, peer=Peer.WANDB_STORE) is None
    assert not server.seen


def test_it_is_sent_as_requests_sends_it(server: Server, transport: Transport) -> None:
    asked_by_requests(transport, server)
    for _ in range(3):
        assert exchanged(transport, server) == CONTENT
    first, *others = [(path, sorted(headers.items())) for path, headers in server.seen]
    assert others == [first] * 3
    assert server.connections == 1
    asked_by_requests(transport, server)
    assert server.connections == 1


def test_a_header_that_would_be_two_is_not_sent(server: Server, transport: Transport) -> None:
    asked_by_requests(transport, server)
    idle = transport.idle(server.url + URL, peer=Peer.WANDB_STORE)
    assert idle is not None
    idle.headers = {"X-Extra": "ours\r\nX-More: another"}
    with pytest.raises(Unusual):
        Exchange(idle, len(CONTENT), memoryview(bytearray(HEAD_BYTES)))
    assert len(server.seen) == 1


@pytest.mark.parametrize("piece_bytes", [1, 100, 16 << 10, 100_000])
def test_every_byte_comes_however_it_is_sent(
    server: Server, transport: Transport, piece_bytes: int
) -> None:
    content = CONTENT if piece_bytes > 100 else CONTENT[:5_000]
    asked_by_requests(transport, server, content)

    def answer(handler: Handler) -> None:
        sent = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        for at in range(0, len(sent), piece_bytes):
            handler.wfile.write(sent[at : at + piece_bytes])

    server.answers = [answer]
    assert exchanged(transport, server, len(content)) == content
    assert exchanged(transport, server, len(content)) == content
    assert server.connections == 1


def test_a_connection_that_is_to_end_is_not_used_again(
    server: Server, transport: Transport
) -> None:
    asked_by_requests(transport, server)
    server.answers = [reply(200, CONTENT, Connection="close")]
    assert exchanged(transport, server) == CONTENT
    assert transport.idle(server.url + URL, peer=Peer.WANDB_STORE) is None


def chunked(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%X\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT))


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


def without_end(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-More: of it\r\n" * 10_000)


def babble(handler: Handler) -> None:
    handler.wfile.write(b"what?\r\n\r\n")


@pytest.mark.parametrize(
    "odd",
    [
        reply(403),
        reply(404, b"none"),
        reply(503),
        reply(302, Location="/there"),
        reply(206, CONTENT, Content_Range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"),
        reply(200, CONTENT[:-1]),
        reply(200, CONTENT + b"1"),
        reply(200, CONTENT[:-1], Content_Length=str(len(CONTENT))),
        reply(200, gzip.compress(CONTENT), Content_Encoding="gzip"),
        chunked,
        hang_up,
        without_end,
        babble,
    ],
)
def test_what_is_otherwise_is_unusual_and_ends_its_connection(
    server: Server, transport: Transport, odd: Callable[[Handler], None]
) -> None:
    asked_by_requests(transport, server)
    server.answers = [odd]
    with pytest.raises(Unusual):
        exchanged(transport, server)
    assert transport.idle(server.url + URL, peer=Peer.WANDB_STORE) is None
    asked_by_requests(transport, server)


LENGTH = b"Content-Length: 5"


@pytest.mark.parametrize(
    ("lines", "ends"),
    [
        ([b"HTTP/1.1 200 OK", LENGTH], False),
        ([b"HTTP/1.1 200", b"content-length:5", b"ETag: a: b"], False),
        ([b"HTTP/1.1 200 ", b"CONTENT-LENGTH:   5  ", LENGTH], False),
        ([b"HTTP/1.1 200 OK", LENGTH, b"Connection: Keep-Alive"], False),
        ([b"HTTP/1.1 200 OK", LENGTH, b"Connection: close"], True),
        ([b"HTTP/1.1 200 OK", LENGTH, b"connection: Close, X"], True),
    ],
)
def test_ordinary_heads(lines: list[bytes], ends: bool) -> None:
    assert is_last(b"\r\n".join(lines), size=5) is ends


@pytest.mark.parametrize("status", [500, 429, 404, 403, 302, 206])
def test_another_status_is_told(status: int) -> None:
    with pytest.raises(Unusual) as raised:
        is_last(b"HTTP/1.1 %d Words\r\nContent-Length: 5" % status, size=5)
    assert raised.value.status == status


@pytest.mark.parametrize(
    "lines",
    [
        [b"HTTP/1.1 200 OK"],
        [b"HTTP/1.0 200 OK", LENGTH],
        [b"HTTP/1.1 2000 OK", LENGTH],
        [b"HTTP/1.1 201 Created", LENGTH],
        [b"HTTP/1.1 100 Continue"],
        [b"HTTP/1.1 200 OK", b"Content-Length: 6"],
        [b"HTTP/1.1 200 OK", b"Content-Length: +5"],
        [b"HTTP/1.1 200 OK", b"Content-Length: 5, 5"],
        [b"HTTP/1.1 200 OK", LENGTH, b"Content-Length: 6"],
        [b"HTTP/1.1 200 OK", LENGTH, b"Transfer-Encoding: chunked"],
        [b"HTTP/1.1 200 OK", LENGTH, b"Transfer-Encoding : chunked"],
        [b"HTTP/1.1 200 OK", LENGTH, b"Content-Encoding: gzip"],
        [b"HTTP/1.1 200 OK", LENGTH, b"Content-Range: bytes 0-4/9"],
        [b"HTTP/1.1 200 OK", LENGTH, b" goes on"],
        [b"HTTP/1.1 200 OK", LENGTH, b"no header"],
        [b"", LENGTH],
    ],
)
def test_unusual_heads(lines: list[bytes]) -> None:
    with pytest.raises(Unusual):
        is_last(b"\r\n".join(lines), size=5)

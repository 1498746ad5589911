"""Where an answer ends: noticed where its framing tells, and said where it doesn't."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from certificates import Authority
from scripted import Server, scripted_servers

from wbfs.model.errors import RemoteError
from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references.objects import ObjectRequest, open_object

WHOLE = b"0123456789"
RANGE = "Content-Range: bytes 2-9/10"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["http", "https", "https that just ends"])
def server(authority: Authority, request: pytest.FixtureRequest) -> Iterator[Server]:
    context = None if request.param == "http" else authority.context()
    with scripted_servers(context) as start:
        server = start()
        server.closes_tls = request.param == "https"
        yield server


@pytest.fixture
def transport(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    transport = Transport()
    yield transport
    transport.close()


def raw(status: str, *headers: str, body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer as it stands, after which the connection is closed."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, ""))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head.encode() + body)
        handler.close_connection = True

    return answer


def chunks(*pieces: bytes, ends: bool) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n" * ends


def read(transport: Transport, server: Server, start: int, peer: Peer) -> tuple[bytes, bool]:
    """Return the bytes from `start` on, and whether that is known to be all of them."""
    deadline = Deadline.after(50)
    if peer is Peer.OBJECT_STORE:
        attempts = [ObjectRequest(url=server.url, signed=False)]
        opened = open_object(transport, attempts, start=start, stop=None, deadline=deadline)
    else:
        location = Location(url=server.url, peer=peer)
        opened = open_stream(transport, location, start=start, deadline=deadline)
    with opened as stream:
        return b"".join(map(bytes, stream.pieces)), stream.end_is_certain


PEERS = [Peer.WANDB_STORE, Peer.OBJECT_STORE, Peer.REFERENCE]
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    ("start", "answer", "certain"),
    [
        (0, raw("200 OK", "Content-Length: 10", body=WHOLE), True),
        (0, raw("200 OK", "Content-Length: 10, 10", body=WHOLE), True),
        (0, raw("200 OK", CHUNKED, body=chunks(WHOLE, ends=True)), True),
        (0, raw("200 OK", CHUNKED, "Content-Length: 3", body=chunks(WHOLE, ends=True)), True),
        (0, raw("200 OK", body=WHOLE), False),
        (0, raw("200 OK", "Content-Length: many", body=WHOLE), False),
        (0, raw("200 OK", "Content-Length: -1", body=WHOLE), False),
        (0, raw("200 OK", f"Content-Length: {'9' * 5000}", body=WHOLE), False),
        (2, raw("206 Partial", RANGE, "Content-Length: 8", body=WHOLE[2:]), True),
        (2, raw("206 Partial", RANGE, CHUNKED, body=chunks(WHOLE[2:], ends=True)), True),
        (2, raw("206 Partial", RANGE, body=WHOLE[2:]), True),
        (2, raw("206 Partial", "Content-Range: bytes 2-9/*", body=WHOLE[2:]), True),
    ],
)
def test_whether_the_end_is_certain(
    server: Server,
    transport: Transport,
    peer: Peer,
    start: int,
    answer: Callable[[BaseHTTPRequestHandler], None],
    certain: bool,
) -> None:
    server.answers = [answer]
    assert read(transport, server, start, peer) == (WHOLE[start:], certain)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("encoding", ["", "identity", "Identity", "utf-8", "aws-chunked", "none"])
def test_an_encoding_that_is_none(
    server: Server, transport: Transport, peer: Peer, encoding: str
) -> None:
    encoded = f"Content-Encoding: {encoding}"
    server.answers = [raw("206 Partial", RANGE, "Content-Length: 8", encoded, body=WHOLE[2:])]
    assert read(transport, server, 2, peer) == (WHOLE[2:], True)
    server.answers = [raw("200 OK", "Content-Length: 10", encoded, body=WHOLE)]
    assert read(transport, server, 0, peer) == (WHOLE, True)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("status", ["405 Method Not Allowed", "501 Not Implemented"])
def test_a_server_that_refuses_whoever_asks_for_a_part(
    server: Server, transport: Transport, peer: Peer, status: str
) -> None:
    server.answers = [
        raw(status, "Content-Length: 0", body=b""),
        raw("203 Non-Authoritative", "Content-Length: 10", body=WHOLE),
    ]
    assert read(transport, server, 2, peer) == (WHOLE, True)
    assert ["Range" in headers for _, headers in server.seen] == [True, False]


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    ("start", "answer"),
    [
        (0, raw("200 OK", "Content-Length: 11", body=WHOLE)),
        (0, raw("200 OK", CHUNKED, body=chunks(WHOLE, ends=False))),
        (0, raw("200 OK", CHUNKED, body=chunks(WHOLE, ends=False) + b"5\r\nabc")),
        (0, raw("200 OK", CHUNKED, "Content-Length: 10", body=chunks(WHOLE, ends=False))),
        (2, raw("206 Partial", RANGE, "Content-Length: 8", body=WHOLE[2:-1])),
        (2, raw("206 Partial", RANGE, CHUNKED, body=chunks(WHOLE[2:], ends=False))),
        (2, raw("206 Partial", RANGE, body=WHOLE[2:-1])),
        (2, raw("206 Partial", RANGE, body=b"")),
        # Framed, but shorter than the range that it says it is.
        (2, raw("206 Partial", RANGE, "Content-Length: 7", body=WHOLE[2:-1])),
        (2, raw("206 Partial", RANGE, CHUNKED, body=chunks(WHOLE[2:-1], ends=True))),
    ],
)
def test_an_early_end_is_noticed(
    server: Server,
    transport: Transport,
    peer: Peer,
    start: int,
    answer: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    server.answers = [answer]
    with pytest.raises(RemoteError):
        read(transport, server, start, peer)

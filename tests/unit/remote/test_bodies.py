"""Bodies as they come over a connection, with TLS and without: all of the bytes, or an error.

What over TCP is a number of bytes is over TLS a number of records, each of which is read whole or
not at all: a connection may have something to read and give nothing, or give what lies in no
buffer of the kernel's any more.
"""

from __future__ import annotations

import gzip
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from itertools import product

import pytest
from certificates import Authority
from scripted import Server, reply, scripted_servers

from wbfs.model.errors import RemoteError, RemoteTimeout
from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport

Handler = BaseHTTPRequestHandler
CONTENT = random.Random(1).randbytes((3 << 20) + 1)
PIECES = (1, 5, 16 << 10, (16 << 10) + 1, 100_000)
"""Bytes that are written at once; what is written at once is a record, up to 16 KiB."""
RECORD_BYTES = 16 << 10
STALLS_S = 60.0
"""How long nothing, or little, is sent: longer than anybody waits here."""
BROKEN_RECORD = b"\x17\x03\x03\x00\x40" + bytes(64)
"""A record of TLS that nobody has encrypted."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["http", "https"])
def server(authority: Authority, request: pytest.FixtureRequest) -> Iterator[Server]:
    with scripted_servers(None if request.param == "http" else authority.context()) as start:
        yield start()


@pytest.fixture
def tls_server(authority: Authority) -> Iterator[Server]:
    with scripted_servers(authority.context()) as start:
        yield start()


@pytest.fixture
def transport(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    transport = Transport()
    yield transport
    transport.close()


def head(handler: Handler, status: int, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def send(handler: Handler, framing: str, content: bytes, piece_bytes: int) -> None:
    """Answer with a content in pieces, which are short at its beginning and at its end."""
    frames = {
        "length": {"Content_Length": str(len(content))},
        "chunks": {"Transfer_Encoding": "chunked"},
        "close": {"Connection": "close"},
    }
    head(handler, 200, **frames[framing])
    at, number = 0, 0
    while at < len(content):
        is_edge = number < 20 or len(content) - at < 20
        piece = content[at : at + (piece_bytes if not is_edge else min(piece_bytes, 3))]
        if framing == "chunks":
            handler.wfile.write(b"%X;a=b\r\n%s\r\n" % (len(piece), piece))
        else:
            handler.wfile.write(piece)
        at += len(piece)
        number += 1
    if framing == "chunks":
        handler.wfile.write(b"0\r\nX-Trailer: of no use\r\n\r\n")
    handler.close_connection = framing == "close"


def read(
    transport: Transport,
    server: Server,
    *,
    start: int = 0,
    stop: int | None = None,
    seconds: float = 100,
    into: list[bytes] | None = None,
) -> bytes:
    """Return what is read; `into` gets it piece by piece, also where an error ends it."""
    pieces: list[bytes] = [] if into is None else into
    with open_stream(
        transport,
        Location(url=f"{server.url}/file"),
        start=start,
        stop=stop,
        deadline=Deadline.after(seconds),
    ) as stream:
        for piece in stream.pieces:
            pieces.append(bytes(piece))
    return b"".join(pieces)


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
def test_every_byte_comes_however_it_is_sent(
    server: Server, transport: Transport, framing: str
) -> None:
    for piece_bytes in PIECES:
        content = CONTENT if piece_bytes > 100 else CONTENT[:10_000]
        server.answers = [lambda handler, c=content, p=piece_bytes: send(handler, framing, c, p)]  # type: ignore[misc]
        assert read(transport, server) == content


def test_connections_are_used_again_after_all_kinds_of_bodies(
    server: Server, transport: Transport
) -> None:
    clients: list[object] = []

    def noted(answer: Callable[[Handler], None]) -> Callable[[Handler], None]:
        def note(handler: Handler) -> None:
            clients.append(handler.client_address)
            answer(handler)

        return note

    part = {"Content_Range": f"bytes 5-9/{len(CONTENT)}"}
    answers: list[tuple[Callable[[Handler], None], int, bytes]] = [
        (reply(200, CONTENT), 0, CONTENT),
        (reply(200, b""), 0, b""),
        (reply(200, b"x"), 0, b"x"),
        (lambda handler: send(handler, "chunks", CONTENT, 50_000), 0, CONTENT),
        (lambda handler: send(handler, "chunks", b"", 1), 0, b""),
        (reply(206, CONTENT[5:10], **part), 5, CONTENT[5:10]),
        (reply(302, CONTENT[:1000], Location="/elsewhere"), 0, b"from elsewhere"),
        (reply(200, b"from elsewhere"), 0, b""),
    ]
    server.answers = [noted(answer) for answer, _, _ in answers]
    for _, start, expected in answers[:-1]:
        stop = 10 if start else None
        assert read(transport, server, start=start, stop=stop) == expected
    assert len(clients) == len(answers)
    assert len(set(clients)) == 1


def test_what_comes_after_a_body_is_of_no_other(server: Server, transport: Transport) -> None:
    def too_much(handler: Handler) -> None:
        one = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        # At once: what comes later could not be told from the answer to the next question.
        handler.wfile.write(one + b"12345" + one + b"wrong")
        handler.close_connection = True

    server.answers = [too_much, reply(200, b"right")]
    assert read(transport, server) == b"12345"
    assert read(transport, server) == b"right"


def raw_send(handler: Handler, data: bytes) -> None:
    """Send bytes that are no TLS, below it."""
    socket.socket.send(handler.connection, data)


def nothing(handler: Handler) -> None:
    """Just end."""


def half_a_record(handler: Handler) -> None:
    raw_send(handler, b"\x17\x03\x03\x40\x00" + bytes(100))


def broken_record(handler: Handler) -> None:
    raw_send(handler, BROKEN_RECORD)


def reset(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@pytest.mark.parametrize(
    ("framing", "end"),
    [
        *product(("length", "chunks", "range"), (nothing, half_a_record, broken_record, reset)),
        # How else it ends tells nothing: test_bytes.py has what becomes of that.
        ("close", broken_record),
    ],
)
@pytest.mark.parametrize("closes_tls", [True, False], ids=["closed", "just ends"])
def test_a_body_that_is_cut_is_an_error(
    tls_server: Server,
    transport: Transport,
    framing: str,
    end: Callable[[Handler], None],
    closes_tls: bool,
) -> None:
    sent = CONTENT[: 5 * RECORD_BYTES]
    frames = {
        "length": {"Content_Length": str(len(CONTENT))},
        "range": {
            "Content_Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}",
            "Content_Length": str(len(CONTENT)),
        },
        "chunks": {"Transfer_Encoding": "chunked"},
        "close": {},
    }

    def cut(handler: Handler) -> None:
        head(handler, 206 if framing == "range" else 200, **frames[framing])
        if framing == "chunks":
            handler.wfile.write(b"%x\r\n" % len(CONTENT))
        handler.wfile.write(sent)
        end(handler)
        handler.close_connection = True

    tls_server.closes_tls = closes_tls
    tls_server.answers = [cut]
    pieces: list[bytes] = []
    with pytest.raises(RemoteError) as caught:
        read(transport, tls_server, stop=len(CONTENT) if framing == "range" else None, into=pieces)
    assert not isinstance(caught.value, RemoteTimeout)
    got = b"".join(pieces)
    assert sent.startswith(got)
    # What came is not lost, but for what the kernel forgets with a connection that is reset.
    assert end is reset or len(got) == len(sent)


def whole_records(handler: Handler) -> None:
    handler.wfile.write(b"first")
    time.sleep(STALLS_S)


def record_that_stops(handler: Handler) -> None:
    half_a_record(handler)
    time.sleep(STALLS_S)


def record_in_drops(handler: Handler) -> None:
    raw_send(handler, b"\x17\x03\x03\x40\x00")
    for _ in range(int(STALLS_S / 0.1)):
        raw_send(handler, b"x")
        time.sleep(0.1)


def records_in_drops(handler: Handler) -> None:
    for _ in range(int(STALLS_S / 0.1)):
        handler.wfile.write(b"x")
        time.sleep(0.1)


@pytest.mark.parametrize(
    "stall", [whole_records, record_that_stops, record_in_drops, records_in_drops]
)
def test_a_body_that_stalls_is_given_up_by_the_deadline(
    tls_server: Server, transport: Transport, stall: Callable[[Handler], None]
) -> None:
    def stalls(handler: Handler) -> None:
        head(handler, 200, Content_Length=str(len(CONTENT)))
        handler.wfile.write(CONTENT[:1000])
        with suppress(OSError):
            stall(handler)
        handler.close_connection = True

    tls_server.answers = [stalls]
    pieces: list[bytes] = []
    began = time.monotonic()
    with pytest.raises(RemoteTimeout):
        read(transport, tls_server, seconds=1, into=pieces)
    assert time.monotonic() - began < STALLS_S / 2
    assert b"".join(pieces).startswith(CONTENT[:1000])


def test_a_stall_does_not_hide_what_has_come(tls_server: Server, transport: Transport) -> None:
    """The last record's bytes are in no buffer of the kernel's when there is nothing to read."""

    def answer(handler: Handler) -> None:
        head(handler, 200, Content_Length=str(RECORD_BYTES))
        # One record, of which each read may take a part.
        handler.wfile.write(CONTENT[:RECORD_BYTES])
        time.sleep(STALLS_S)

    tls_server.answers = [answer]
    assert read(transport, tls_server, seconds=STALLS_S / 2) == CONTENT[:RECORD_BYTES]


def test_who_gives_up_in_mid_body_leaves_no_connection_for_others(
    server: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    class GivenUp(BaseException):
        pass

    pieces: list[bytes] = []

    def checkpoint() -> None:
        if pieces:
            raise GivenUp

    server.answers = [reply(200, CONTENT), reply(200, b"another")]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    transport = Transport(checkpoint=checkpoint)
    with pytest.raises(GivenUp):
        read(transport, server, into=pieces)
    assert pieces
    pieces.clear()
    assert read(transport, server) == b"another"
    transport.close()


def test_compressed_answers(server: Server, transport: Transport) -> None:
    """Answers of the API are unpacked, and W&B's files too: nobody asked for them like that."""
    content = b"x" * 1000 + CONTENT
    packed = gzip.compress(content, compresslevel=1)
    server.answers = [reply(200, packed, Content_Encoding="gzip")]
    deadline = Deadline.after(100)
    with transport.request(
        "GET", server.url, peer=Peer.WANDB, headers={}, deadline=deadline
    ) as response:
        assert transport.body(response, deadline) == content
    assert read(transport, server) == content
    # Cut short it is no shorter answer.
    length = str(len(packed))
    server.answers = [reply(200, packed[:-1000], Content_Encoding="gzip", Content_Length=length)]
    with (
        pytest.raises(RemoteError),
        transport.request(
            "GET", server.url, peer=Peer.WANDB, headers={}, deadline=deadline
        ) as response,
    ):
        transport.body(response, deadline)

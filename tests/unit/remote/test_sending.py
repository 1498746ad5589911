"""A request over a connection that is idle is as any other, and so is what comes of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from requests.adapters import HTTPAdapter
from scripted import Server, reply, scripted_servers

from wbfs.model.errors import WbfsError
from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport

CONTENT = bytes(range(256)) * 64
SHORT_S = 10.0

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[], Server]]:
    """Return what starts servers."""
    with scripted_servers() as start:
        yield start


@pytest.fixture
def by_requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the URLs that requests is told to ask for."""
    asked: list[str] = []
    send = HTTPAdapter.send

    def noting(adapter: HTTPAdapter, request: object, *args: object, **kwargs: object) -> object:
        asked.append(request.url)  # type: ignore[attr-defined]
        return send(adapter, request, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(HTTPAdapter, "send", noting)
    return asked


def outcome(transport: Transport, url: str, peer: Peer = Peer.WANDB_STORE) -> bytes | str:
    """Return what is read from a URL, or the error in words."""
    deadline = Deadline.after(SHORT_S)
    try:
        location = Location(url=url, peer=peer, headers={"If-Match": '"1"'})
        with open_stream(transport, location, stop=100, deadline=deadline) as stream:
            return b"".join(map(bytes, stream.pieces))
    except WbfsError as error:
        return f"{type(error).__name__}: {error}"


def in_range(status: int = 206, body: bytes = CONTENT[:100], **headers: str) -> Answer:
    return reply(status, body, Content_Range=f"bytes 0-99/{len(CONTENT)}", **headers)


def chunked(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(206)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("Content-Range", f"bytes 0-99/{len(CONTENT)}")
    handler.end_headers()
    handler.wfile.write(b"64\r\n" + CONTENT[:100] + b"\r\n0\r\n\r\n")


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def babble(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"what?\r\n\r\n")
    handler.close_connection = True


def last_one(handler: BaseHTTPRequestHandler) -> None:
    in_range(Connection="close")(handler)
    handler.close_connection = True


@pytest.mark.parametrize("peer", [Peer.WANDB_STORE, Peer.REFERENCE])
def test_the_second_request_is_sent_as_the_first(
    servers: Callable[[], Server], by_requests: list[str], peer: Peer
) -> None:
    server, transport = servers(), Transport()
    server.answers = [in_range()]
    url = f"{server.url}/a%20folder/file.bin?X-Signature=a%2Fb&more"
    assert [outcome(transport, url, peer) for _ in range(3)] == [CONTENT[:100]] * 3
    assert len(server.seen) == 3
    assert all(
        (path, list(headers.items())) == (server.seen[0][0], list(server.seen[0][1].items()))
        for path, headers in server.seen
    )
    assert by_requests == [url]


@pytest.mark.parametrize(
    "odd",
    [
        "/a b",
        "/a/../b",
        "/./b",
        "/ä",
        "/a?b=c d",
        "/a#fragment",
        "",
        "/a?b=<c>",
        "/a//b",
        "/%7ea%2f",
    ],
)
def test_odd_urls_are_sent_as_requests_does(servers: Callable[[], Server], odd: str) -> None:
    server, transport = servers(), Transport()
    server.answers = [in_range()]
    assert outcome(transport, server.url + odd) == outcome(transport, server.url + odd)
    first, second = server.seen
    assert first == second


@pytest.mark.parametrize(
    "answers",
    [
        [reply(503, Retry_After="0"), in_range()],
        [reply(429, Retry_After="100")],
        [reply(403)],
        [reply(400, b"<Code>ExpiredToken</Code>")],
        [reply(404, b"none")],
        [reply(200, CONTENT)],
        [in_range(Content_Encoding="gzip", body=gzip.compress(CONTENT))],
        [in_range(body=CONTENT[:50], Content_Length="100")],
        [reply(302, b"go there", Location="/there"), in_range()],
        [reply(302, Location="ftp://there")],
        [chunked],
        [hang_up, in_range()],
        [babble, in_range()],
        [last_one, last_one],
    ],
)
def test_what_comes_of_a_request_is_the_same_over_an_idle_connection(
    servers: Callable[[], Server], answers: list[Answer]
) -> None:
    server = servers()
    outcomes = []
    for is_idle in (False, True):
        transport = Transport()
        if is_idle:
            server.answers = [in_range()]
            assert outcome(transport, server.url + "/x") == CONTENT[:100]
        # The last one is given again and again.
        server.answers = list(answers)
        outcomes.append([outcome(transport, f"{server.url}/x?secret=1") for _ in range(2)])
    assert outcomes[0] == outcomes[1]


def test_a_silent_server_is_not_asked_once_more_at_once(servers: Callable[[], Server]) -> None:
    server, transport = servers(), Transport()
    server.answers = [in_range()]
    assert outcome(transport, server.url) == CONTENT[:100]

    def silence(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(1)

    server.answers = [silence]
    assert "does not answer in time" in str(outcome(transport, server.url + "/x"))
    assert len(server.seen) == 2

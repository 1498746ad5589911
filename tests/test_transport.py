"""Requests against a real server on loopback: retries, deadlines, ranges, and no leaked secret."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wbfs.model.errors import (
    AccessDenied,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    RemoteTimeout,
    UrlExpired,
    WbfsError,
)
from wbfs.remote.bytes import Location, open_stream
from wbfs.remote.credentials import load_credentials
from wbfs.remote.graphql import GraphQL
from wbfs.remote.transport import Deadline, Transport

CONTENT = bytes(range(256)) * 1000
KEY = "k" * 40
SECRET_QUERY = "X-Signature=verysecret"


@dataclass
class Server:
    """A server that answers each request by the next of its scripted answers."""

    answers: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


class QuietServer(ThreadingHTTPServer):
    """A server to which clients that leave early are no news."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing."""


@pytest.fixture
def servers() -> Iterator[Callable[[], Server]]:
    """Return what starts servers."""
    running: list[ThreadingHTTPServer] = []

    def start() -> Server:
        server = Server()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.seen.append((self.path, dict(self.headers)))
                answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                answer(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        http = QuietServer(("127.0.0.1", 0), Handler)
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        running.append(http)
        server.url = f"http://127.0.0.1:{http.server_port}"
        return server

    yield start
    for http in running:
        http.shutdown()
        http.server_close()


@pytest.fixture
def server(servers: Callable[[], Server]) -> Server:
    return servers()


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport()
    yield transport
    transport.close()


def reply(
    status: int, body: bytes = b"", **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer; underscores in header names stand for hyphens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | named).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        if len(body) != int(named.get("Content-Length", len(body))):
            handler.close_connection = True

    return answer


def silence(handler: BaseHTTPRequestHandler) -> None:
    """Answer nothing for longer than the tests wait."""
    time.sleep(5)


def read(transport: Transport, server: Server, *, start: int = 0, seconds: float = 3) -> bytes:
    location = Location(url=f"{server.url}/file?{SECRET_QUERY}")
    with open_stream(transport, location, start=start, deadline=Deadline.after(seconds)) as stream:
        return b"".join(stream.pieces)


def test_passing_failures_are_retried(server: Server, transport: Transport) -> None:
    server.answers = [reply(500), reply(503), reply(429, Retry_After="0"), reply(200, CONTENT)]
    assert read(transport, server) == CONTENT
    assert len(server.seen) == 4


def test_retry_after_is_honoured(server: Server, transport: Transport) -> None:
    server.answers = [reply(429, Retry_After="1"), reply(200, CONTENT)]
    began = time.monotonic()
    assert read(transport, server) == CONTENT
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(429, Retry_After="60"), RateLimited),
        (reply(500), RemoteError),
        (reply(404), RemoteError),
        (reply(403), UrlExpired),
        (reply(400, b"<Error><Code>ExpiredToken</Code></Error>"), UrlExpired),
        (silence, RemoteTimeout),
        (reply(200, CONTENT[:100], Content_Length="200"), RemoteError),
        (reply(200, b"x", Content_Encoding="gzip"), RemoteProtocolError),
        (reply(302, Location="/again"), RemoteError),
    ],
)
def test_lasting_failures_end_in_time_and_tell_no_secret(
    server: Server,
    transport: Transport,
    answer: Callable[[BaseHTTPRequestHandler], None],
    error: type[WbfsError],
) -> None:
    server.answers = [answer]
    began = time.monotonic()
    with pytest.raises(error) as caught:
        read(transport, server, seconds=1)
    assert time.monotonic() - began < 2.5
    assert type(caught.value) is error
    assert server.url.removeprefix("http://") in str(caught.value)
    assert "verysecret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nobody_there(transport: Transport, server: Server) -> None:
    server.url = "http://127.0.0.1:1"
    with pytest.raises(RemoteError, match=r"can't reach 127\.0\.0\.1:1: Connection refused"):
        read(transport, server, seconds=0.5)


def test_ranges(server: Server, transport: Transport) -> None:
    part = CONTENT[100:]
    span = f"bytes 100-{len(CONTENT) - 1}/{len(CONTENT)}"
    server.answers = [reply(206, part, Content_Range=span)]
    assert read(transport, server, start=100) == part
    assert server.seen[0][1]["Range"] == "bytes=100-"


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, CONTENT),
        reply(206, CONTENT),
        reply(206, CONTENT, Content_Range=f"bytes 99-{len(CONTENT) - 2}/{len(CONTENT)}"),
    ],
)
def test_another_range_than_was_asked_for_is_refused(
    server: Server, transport: Transport, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    server.answers = [answer]
    with pytest.raises(RemoteProtocolError):
        read(transport, server, start=100)


def test_netrc_is_no_business_of_signed_urls(
    servers: Callable[[], Server],
    transport: Transport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    first, second = servers(), servers()
    first.answers = [reply(302, Location=f"{second.url}/moved"), reply(200, CONTENT)]
    second.answers = [reply(302, Location=f"{first.url}/back")]
    assert read(transport, first) == CONTENT
    assert len(first.seen) == 2
    assert not any("Authorization" in headers for _, headers in first.seen + second.seen)


def graphql(server: Server, transport: Transport, tmp_path: Path, **environ: str) -> GraphQL:
    environ = {"HOME": str(tmp_path), "WANDB_BASE_URL": server.url} | environ
    return GraphQL(transport=transport, credentials=load_credentials(environ, tmp_path))


def test_the_key_goes_to_its_server_and_not_along_a_redirect(
    servers: Callable[[], Server], transport: Transport, tmp_path: Path
) -> None:
    server, other = servers(), servers()
    server.answers = [reply(307, Location=f"{other.url}/graphql")]
    other.answers = [reply(200, b'{"data": {"a": 1}}')]
    api = graphql(server, transport, tmp_path, WANDB_API_KEY=KEY)
    assert api.execute("{ a }", {}, deadline=Deadline.after(3)) == {"a": 1}
    expected = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
    assert server.seen[0][1]["Authorization"] == expected
    assert "Authorization" not in other.seen[0][1]


def test_a_rotated_key_is_found(server: Server, transport: Transport, tmp_path: Path) -> None:
    host = server.url.removeprefix("http://")
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {host} login user password {KEY}\n")
    netrc.chmod(0o600)
    api = graphql(server, transport, tmp_path)
    server.answers = [reply(200, b'{"data": {}}')]
    api.execute("{ a }", {}, deadline=Deadline.after(3))
    netrc.write_text(f"machine {host} login user password {'n' * 40}\n")
    server.answers = [reply(401), reply(200, b'{"data": {"a": 1}}')]
    assert api.execute("{ a }", {}, deadline=Deadline.after(3)) == {"a": 1}
    used = base64.b64decode(server.seen[-1][1]["Authorization"].partition(" ")[2])
    assert used == b"api:" + b"n" * 40


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (reply(401), AccessDenied, "wandb login"),
        (reply(403, b'{"errors": [{"message": "no seat"}]}'), AccessDenied, "no seat"),
        (
            reply(200, b'{"data": {"a": null}, "errors": [{"message": "permission denied: a"}]}'),
            AccessDenied,
            "permission denied: a",
        ),
        (reply(200, b'{"errors": [{"message": "boom"}]}'), RemoteError, "boom"),
        (reply(400, b'{"error": "bad query"}'), RemoteError, "bad query"),
        (reply(200, b"<html>log in</html>"), RemoteProtocolError, "login page"),
        (reply(404, b"nothing"), RemoteProtocolError, "WANDB_BASE_URL"),
        (reply(500), RemoteError, "500"),
    ],
)
def test_answers_become_errors(
    server: Server,
    transport: Transport,
    tmp_path: Path,
    answer: Callable[[BaseHTTPRequestHandler], None],
    error: type[WbfsError],
    words: str,
) -> None:
    server.answers = [answer]
    api = graphql(server, transport, tmp_path, WANDB_API_KEY=KEY)
    with pytest.raises(error, match=words) as caught:
        api.execute("{ a }", {}, deadline=Deadline.after(1))
    assert KEY not in str(caught.value)


def test_a_federated_identity(server: Server, transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a.b.c\n")
    server.answers = [
        reply(200, b'{"access_token": "short", "expires_in": 3600}'),
        reply(200, b'{"data": {}}'),
    ]
    api = graphql(server, transport, tmp_path, WANDB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"))
    for _ in range(2):
        api.execute("{ a }", {}, deadline=Deadline.after(3))
    assert [path for path, _ in server.seen] == ["/oidc/token", "/graphql", "/graphql"]
    assert server.seen[1][1]["Authorization"] == "Bearer short"


def test_checkpoint_ends_the_waiting(server: Server) -> None:
    class Cancelled(BaseException):
        pass

    calls = 0

    def checkpoint() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise Cancelled

    server.answers = [reply(503, Retry_After="5")]
    began = time.monotonic()
    with pytest.raises(Cancelled):
        read(Transport(checkpoint=checkpoint), server, seconds=10)
    assert time.monotonic() - began < 2

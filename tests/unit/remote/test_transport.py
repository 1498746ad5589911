"""Requests against a real server on loopback: retries, deadlines, ranges, and no leaked secret."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from scripted import Server, reply, scripted_servers

from wbfs.model.entries import Reference
from wbfs.model.errors import (
    AccessDenied,
    LoginRefused,
    NoDescriptor,
    NotFound,
    RateLimited,
    ReferenceChanged,
    ReferenceUnsupported,
    RemoteError,
    RemoteProtocolError,
    RemoteTimeout,
    UrlExpired,
    UsageError,
    WbfsError,
)
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.api.graphql import GraphQL, PageRequest, QueryRefused
from wbfs.remote.credentials import load_credentials
from wbfs.remote.http.bytes import Location, ObjectMissing, open_stream
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References

CONTENT = bytes(range(256)) * 1000
KEY = "k" * 40
SECRET_QUERY = "X-Signature=verysecret"
SHORT_S = 4.0
"""What is waited for to the end; yet what answers does so sooner, however busy the machine."""


@pytest.fixture
def servers() -> Iterator[Callable[[], Server]]:
    """Return what starts servers."""
    with scripted_servers() as start:
        yield start


@pytest.fixture
def server(servers: Callable[[], Server]) -> Server:
    return servers()


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport()
    yield transport
    transport.close()


def silence(handler: BaseHTTPRequestHandler) -> None:
    """Answer nothing for longer than the tests wait."""
    time.sleep(100)


def stall_in_body(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer that stops after its first bytes, with the connection open."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "200")
        handler.end_headers()
        handler.wfile.write(b"first")
        silence(handler)
        handler.close_connection = True

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send a byte every now and then, for longer than the tests wait."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    end = time.monotonic() + 100
    try:
        while time.monotonic() < end:
            handler.wfile.write(b"x")
            time.sleep(0.1)
    except OSError:
        # The client has gone, as it should.
        pass
    handler.close_connection = True


def cut_chunks(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection in the middle of a chunked body."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"5\r\nfirst\r\n")
    handler.close_connection = True


def read(
    transport: Transport,
    server: Server,
    *,
    start: int = 0,
    stop: int | None = None,
    seconds: float = 30,
) -> bytes:
    location = Location(url=f"{server.url}/file?{SECRET_QUERY}")
    with open_stream(
        transport, location, start=start, stop=stop, deadline=Deadline.after(seconds)
    ) as stream:
        return b"".join(map(bytes, stream.pieces))


def test_passing_failures_are_retried(server: Server, transport: Transport) -> None:
    server.answers = [reply(500), reply(503), reply(429, Retry_After="0"), reply(200, CONTENT)]
    assert read(transport, server, seconds=60) == CONTENT
    assert len(server.seen) == 4


def test_retry_after_is_honoured(server: Server, transport: Transport) -> None:
    server.answers = [reply(429, Retry_After="1"), reply(200, CONTENT)]
    began = time.monotonic()
    assert read(transport, server) == CONTENT
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    "odd", ["soon", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "9" * 400]
)
def test_an_odd_retry_after_is_no_defect(server: Server, transport: Transport, odd: str) -> None:
    server.answers = [reply(503, Retry_After=odd)]
    with pytest.raises(RemoteError, match="503"):
        read(transport, server, seconds=SHORT_S)


@pytest.mark.parametrize(("status", "kind"), [(429, RateLimited), (503, RemoteError)])
def test_a_longer_wait_than_there_is_time_for(
    server: Server, transport: Transport, status: int, kind: type[RemoteError]
) -> None:
    server.answers = [reply(status, Retry_After="3600")]
    began = time.monotonic()
    with pytest.raises(kind, match=f"answers {status} .*asks for 3600 s of peace.*--timeout"):
        read(transport, server, seconds=100)
    assert time.monotonic() - began < 50
    assert len(server.seen) == 1


def test_it_says_how_often_it_tried(server: Server, transport: Transport) -> None:
    server.answers = [reply(500)]
    with pytest.raises(RemoteError, match=r"answers 500 .*\(\d attempts\)"):
        read(transport, server, seconds=SHORT_S)
    server.answers = [reply(404)]
    with pytest.raises(ObjectMissing) as caught:
        read(transport, server, seconds=SHORT_S)
    assert "attempt" not in str(caught.value)


def test_an_attempt_that_has_no_time_left_tells_nothing(
    server: Server, transport: Transport
) -> None:
    server.answers = [reply(503), reply(502), silence]
    with pytest.raises(RemoteError, match=r"answers 502 .*\(3 attempts\)"):
        read(transport, server, seconds=SHORT_S)


def test_who_has_time_waits_longer_for_one_answer(server: Server, transport: Transport) -> None:
    def think(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(1.5)
        reply(200, CONTENT)(handler)

    def ask(seconds: float) -> int:
        server.seen.clear()
        with transport.request(
            "GET",
            server.url,
            peer=Peer.WANDB_STORE,
            headers={},
            silence_s=0.5,
            deadline=Deadline.after(seconds),
        ) as response:
            assert response.status_code == 200
        return len(server.seen)

    server.answers = [think]
    with pytest.raises(RemoteTimeout):
        ask(SHORT_S)
    assert ask(60) == 1


def test_no_descriptor_for_a_connection(
    server: Server, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    server.answers = [reply(200, CONTENT)]
    monkeypatch.setattr(socket, "socket", refuse)
    began = time.monotonic()
    with pytest.raises(NoDescriptor, match="ulimit -Hn"):
        read(transport, server, seconds=100)
    assert time.monotonic() - began < 50


def test_a_dead_proxy_is_named(
    monkeypatch: pytest.MonkeyPatch, transport: Transport, server: Server
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://user:verysecret@127.0.0.1:9")
    with pytest.raises(RemoteError) as caught:
        read(transport, Server(url="http://wandb.invalid"), seconds=SHORT_S)
    assert "wandb.invalid through the proxy 127.0.0.1:9: Connection refused" in str(caught.value)
    assert "HTTP_PROXY" in str(caught.value)
    assert "verysecret" not in str(caught.value)
    monkeypatch.setenv("https_proxy", server.url)
    server.answers = [reply(407)]
    with pytest.raises(RemoteError, match=r"through the proxy .*: it says .*"):
        read(transport, Server(url="https://wandb.invalid"), seconds=SHORT_S)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("http://[::1", "is no proxy's address"),
        ("ftp://127.0.0.1:9", "is no proxy's address"),
        ("http://", "is no proxy's address"),
        ("http://127.0.0.1:0", "is no proxy's address"),
        ("http://127.0.0.1:port", "is no proxy's address"),
        ("socks5h://user:verysecret@127.0.0.1:9", r"pip install 'wbfs\[socks\]'"),
    ],
)
def test_what_is_no_proxy(
    monkeypatch: pytest.MonkeyPatch, transport: Transport, proxy: str, words: str
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("all_proxy", proxy)
    monkeypatch.setitem(sys.modules, "socks", None)
    with pytest.raises(UsageError, match=words) as caught:
        read(transport, Server(url="http://wandb.invalid"), seconds=SHORT_S)
    assert "verysecret" not in str(caught.value)


def test_a_server_that_asks_for_no_wait_is_not_hammered(
    server: Server, transport: Transport
) -> None:
    server.answers = [reply(429, Retry_After="0")]
    with pytest.raises(RateLimited):
        read(transport, server, seconds=SHORT_S)
    assert 2 <= len(server.seen) < 30


def test_own_proxies_win_over_the_environment(
    servers: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, own = servers(), servers()
    environment.answers, own.answers = [reply(200, b"theirs")], [reply(200, b"ours")]
    monkeypatch.setenv("http_proxy", environment.url)
    monkeypatch.setenv("no_proxy", "")
    nowhere = Server(url="http://wandb.invalid")
    assert read(Transport(proxies={"http": own.url}), nowhere) == b"ours"
    assert read(Transport(), nowhere) == b"theirs"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(429, Retry_After="60"), RateLimited),
        (reply(500), RemoteError),
        (reply(404), ObjectMissing),
        (stall_in_body(400), RemoteTimeout),
        (stall_in_body(200), RemoteTimeout),
        (drip, RemoteTimeout),
        (cut_chunks, RemoteError),
        (reply(400, b"<Error>", Content_Length="200"), RemoteError),
        (reply(403), UrlExpired),
        (reply(400, b"<Error><Code>ExpiredToken</Code></Error>"), UrlExpired),
        (silence, RemoteTimeout),
        (reply(200, CONTENT[:100], Content_Length="200"), RemoteError),
        (reply(200, b"not gzip", Content_Encoding="gzip"), RemoteError),
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
        read(transport, server, seconds=SHORT_S)
    assert time.monotonic() - began < 50
    assert type(caught.value) is error
    assert server.url.removeprefix("http://") in str(caught.value)
    assert "verysecret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nobody_there(transport: Transport, server: Server) -> None:
    server.url = "http://127.0.0.1:1"
    with pytest.raises(RemoteError, match=r"can't reach 127\.0\.0\.1:1: Connection refused"):
        read(transport, server, seconds=SHORT_S)


def test_ranges(server: Server, transport: Transport) -> None:
    part = CONTENT[100:]
    span = f"bytes 100-{len(CONTENT) - 1}/{len(CONTENT)}"
    server.answers = [reply(206, part, Content_Range=span)]
    assert read(transport, server, start=100) == part
    assert server.seen[0][1]["Range"] == "bytes=100-"
    server.answers = [reply(206, CONTENT[:50], Content_Range=f"bytes 0-49/{len(CONTENT)}")]
    assert read(transport, server, stop=50) == CONTENT[:50]
    assert server.seen[1][1]["Range"] == "bytes=0-49"


def test_a_range_may_reach_beyond_the_end(server: Server, transport: Transport) -> None:
    server.answers = [reply(206, b"end", Content_Range="bytes 7-9/10")]
    assert read(transport, server, start=7, stop=100) == b"end"


@pytest.mark.parametrize(
    "answer",
    [
        reply(206, CONTENT),
        reply(206, CONTENT, Content_Range=f"bytes 99-{len(CONTENT) - 2}/{len(CONTENT)}"),
        reply(206, CONTENT[100:200], Content_Range=f"bytes 100-199/{len(CONTENT)}"),
    ],
)
def test_another_range_than_was_asked_for_is_refused(
    server: Server, transport: Transport, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    server.answers = [answer]
    with pytest.raises(RemoteProtocolError):
        read(transport, server, start=100)


def graphql(server: Server, transport: Transport, tmp_path: Path, **environ: str) -> GraphQL:
    environ = {"HOME": str(tmp_path), "WANDB_BASE_URL": server.url} | environ
    return GraphQL(transport=transport, credentials=load_credentials(environ, tmp_path))


def test_nesting_without_an_end_is_no_answer(
    server: Server, transport: Transport, tmp_path: Path
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {server.url.removeprefix('http://')} login user password {KEY}\n")
    server.answers = [reply(200, b'{"data": ' + b"[" * 100_000)]
    with pytest.raises(RemoteProtocolError, match="not as a W&B server does"):
        graphql(server, transport, tmp_path).execute("{ a }", {}, deadline=Deadline.after(30))


def test_a_rotated_key_is_found(server: Server, transport: Transport, tmp_path: Path) -> None:
    host = server.url.removeprefix("http://")
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {host} login user password {KEY}\n")
    netrc.chmod(0o600)
    api = graphql(server, transport, tmp_path)
    server.answers = [reply(200, b'{"data": {}}')]
    api.execute("{ a }", {}, deadline=Deadline.after(30))
    netrc.write_text(f"machine {host} login user password {'n' * 40}\n")
    server.answers = [reply(401), reply(200, b'{"data": {"a": 1}}')]
    assert api.execute("{ a }", {}, deadline=Deadline.after(30)) == {"a": 1}
    used = base64.b64decode(server.seen[-1][1]["Authorization"].partition(" ")[2])
    assert used == b"api:" + b"n" * 40


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (reply(401), LoginRefused, "wandb login"),
        # A firewall's, and the server's own.
        (reply(403, b"<html>not from there</html>"), LoginRefused, "no reason given"),
        (reply(403, b'{"errors": [{"message": "no seat"}]}'), AccessDenied, "no seat"),
        (
            reply(200, b'{"data": {"a": null}, "errors": [{"message": "permission denied: a"}]}'),
            AccessDenied,
            "permission denied: a",
        ),
        (reply(200, b'{"errors": [{"message": "boom"}]}'), QueryRefused, "boom"),
        (reply(400, b'{"error": "bad query"}'), QueryRefused, "bad query"),
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
        api.execute("{ a }", {}, deadline=Deadline.after(SHORT_S))
    assert KEY not in str(caught.value)
    # With the same login it may go better later, or never.
    assert isinstance(caught.value, LoginRefused) == (error is LoginRefused)


def test_a_federated_identity(server: Server, transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a.b.c\n")
    server.answers = [
        reply(200, b'{"access_token": "short", "expires_in": 3600}'),
        reply(200, b'{"data": {}}'),
    ]
    api = graphql(server, transport, tmp_path, WANDB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"))
    for _ in range(2):
        api.execute("{ a }", {}, deadline=Deadline.after(30))
    assert [path for path, _ in server.seen] == ["/oidc/token", "/graphql", "/graphql"]
    assert server.seen[1][1]["Authorization"] == "Bearer short"


@pytest.mark.parametrize("silent", ["/oidc/token", "serverInfo"])
def test_who_waits_for_another_s_question_waits_to_the_own_deadline(
    server: Server, transport: Transport, tmp_path: Path, silent: str
) -> None:
    asked, ended = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if silent in (handler.path, *server.bodies[-1].split()):
            asked.set()
            ended.wait(100)
        reply(200, b'{"access_token": "short", "expires_in": 3600, "data": {}}')(handler)

    server.answers = [answer]
    (tmp_path / "token").write_text("a.b.c")
    environ = {
        "HOME": str(tmp_path),
        "WANDB_BASE_URL": server.url,
        "WANDB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
    }
    api = WandbApi(transport=transport, credentials=load_credentials(environ, tmp_path))

    def ask(seconds: float) -> None:
        with suppress(WbfsError):
            api.version("e", "p", "c", "v0", deadline=Deadline.after(seconds))

    first = threading.Thread(target=ask, args=(100,))
    first.start()
    try:
        assert asked.wait(50)
        with pytest.raises(RemoteTimeout, match="takes too long"):
            api.version("e", "p", "c", "v0", deadline=Deadline.after(0.3))
        assert first.is_alive()
    finally:
        ended.set()
        first.join(100)


def test_checkpoint_ends_the_waiting(server: Server) -> None:
    class Cancelled(BaseException):
        pass

    calls = 0

    def checkpoint() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise Cancelled

    server.answers = [reply(503, Retry_After="80")]
    began = time.monotonic()
    with pytest.raises(Cancelled):
        read(Transport(checkpoint=checkpoint), server, seconds=100)
    assert time.monotonic() - began < 50


def test_an_api_answer_that_a_proxy_compressed(
    server: Server, transport: Transport, tmp_path: Path
) -> None:
    server.answers = [reply(200, gzip.compress(b'{"data": {"a": 1}}'), Content_Encoding="gzip")]
    api = graphql(server, transport, tmp_path, WANDB_API_KEY=KEY)
    assert api.execute("{ a }", {}, deadline=Deadline.after(30)) == {"a": 1}


def artifacts(
    server: Server, transport: Transport, tmp_path: Path, answers: Mapping[str, object]
) -> WandbApi:
    """Return the API of a server that answers operations by name; others with a refusal."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        operation = server.bodies[-1].partition("query ")[2].partition(" ")[0].partition("(")[0]
        refusal = {"errors": [{"message": f"Cannot query {operation}"}]}
        known = operation in answers
        body = json.dumps({"data": answers[operation]} if known else refusal).encode()
        reply(200 if known else 400, body)(handler)

    server.answers = [answer]
    environ = {"HOME": str(tmp_path), "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    return WandbApi(transport=transport, credentials=load_credentials(environ, tmp_path))


def test_a_server_that_knows_no_features_is_served_all_the_same(
    server: Server, transport: Transport, tmp_path: Path
) -> None:
    api = artifacts(server, transport, tmp_path, {"ArtifactMembershipByName": {"project": None}})
    for _ in range(2):
        with pytest.raises(NotFound, match="no version or alias 'v0' of e/p/c"):
            api.version("e", "p", "c", "v0", deadline=Deadline.after(30))
    asked = [("serverInfo" in body, "digestAlgorithm" in body) for body in server.bodies]
    assert asked == [(True, False), (False, False), (False, False)]


@pytest.mark.parametrize(
    "models",
    [
        {"edges": [{"node": {"name": "without a time"}}]},
        {"edges": [{"node": {"name": "x", "createdAt": 5}}]},
        {"edges": [{"node": "text"}]},
        {"edges": 5},
        {"pageInfo": 5},
        "text",
    ],
)
def test_misshapen_answers_are_named_as_such(
    server: Server, transport: Transport, tmp_path: Path, models: object
) -> None:
    api = artifacts(server, transport, tmp_path, {"GetProjects": {"models": models}})
    with pytest.raises(RemoteProtocolError):
        api.projects("e", PageRequest(size=100), deadline=Deadline.after(30))


@pytest.mark.parametrize("cursor", ["here", "", None, 5])
def test_pages_that_lead_nowhere_are_not_followed(
    server: Server, transport: Transport, tmp_path: Path, cursor: object
) -> None:
    models = {"edges": [], "pageInfo": {"hasNextPage": True, "endCursor": cursor}}
    api = artifacts(server, transport, tmp_path, {"GetProjects": {"models": models}})
    with pytest.raises(RemoteProtocolError, match="circle"):
        api.projects("e", PageRequest(after="here", size=100), deadline=Deadline.after(30))


def test_nodes_that_the_server_keeps_to_itself_are_passed_over(
    server: Server, transport: Transport, tmp_path: Path
) -> None:
    seen = {"node": {"name": "seen", "createdAt": "2024-01-01T00:00:00"}}
    models = {"edges": [None, {"node": None}, seen]}
    api = artifacts(server, transport, tmp_path, {"GetProjects": {"models": models}})
    found = api.projects("e", PageRequest(size=100), deadline=Deadline.after(30))
    assert [project.name for project in found.items] == ["seen"]
    assert found.next is None


def read_reference(transport: Transport, reference: Reference) -> bytes:
    handler = References(transport).for_uri(reference.uri)
    with handler.open(reference, start=0, stop=None, deadline=Deadline.after(SHORT_S)) as stream:
        return b"".join(map(bytes, stream.pieces))


def test_http_references_are_checked_by_their_etag(server: Server, transport: Transport) -> None:
    uri = f"{server.url}/object"
    server.answers = [reply(200, CONTENT, ETag='"one"')]
    assert read_reference(transport, Reference(uri=uri, token="one")) == CONTENT
    assert read_reference(transport, Reference(uri=uri, token=uri)) == CONTENT
    with pytest.raises(ReferenceChanged, match="\"one\" and was 'two'"):
        read_reference(transport, Reference(uri=uri, token="two"))


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, AccessDenied, "make it public"),
        (403, AccessDenied, "make it public"),
        (404, ReferenceChanged, "is gone"),
        (410, ReferenceChanged, "is gone"),
        (500, RemoteError, "500"),
    ],
)
def test_http_references_that_can_not_be_had(
    server: Server, transport: Transport, status: int, error: type[WbfsError], words: str
) -> None:
    server.answers = [reply(status)]
    uri = f"{server.url}/object?{SECRET_QUERY}"
    with pytest.raises(error, match=words) as caught:
        read_reference(transport, Reference(uri=uri, token=uri))
    assert "verysecret" not in str(caught.value)


def test_file_references(transport: Transport, tmp_path: Path) -> None:
    path = tmp_path / "with space"
    path.write_bytes(CONTENT)
    assert read_reference(transport, Reference(uri=path.as_uri(), token="x")) == CONTENT


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///nowhere/file", "No such file"),
        ("file:///dev/null", "no regular file"),
        ("file:///a%00b", "No such file"),
        ("file:///\ud800", "names no file"),
        ("file://otherhost/etc/hostname", "another machine, 'otherhost'"),
    ],
)
def test_file_references_that_can_not_be_had(transport: Transport, uri: str, words: str) -> None:
    with pytest.raises(ReferenceChanged, match=words):
        read_reference(transport, Reference(uri=uri, token="x"))


def test_a_scheme_without_a_handler_is_named(transport: Transport) -> None:
    with pytest.raises(ReferenceUnsupported, match="custom://"):
        read_reference(transport, Reference(uri="custom://bucket/key", token="etag"))


@contextmanager
def tls_listener(handle: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[float]]]:
    """Give the URL of what treats each connection like that, and a list that gets their times."""
    times: list[float] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                times.append(time.monotonic())
                with connection, suppress(OSError):
                    connection.settimeout(50)
                    handle(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", times
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(50)


def test_a_tls_handshake_that_is_broken_off_is_tried_again(transport: Transport) -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.shutdown(socket.SHUT_RDWR)

    with tls_listener(cut) as (url, times):
        with pytest.raises(RemoteError, match="broke off the TLS handshake") as caught:
            read(transport, Server(url=url), seconds=SHORT_S)
        assert len(times) > 1
    assert "verysecret" not in str(caught.value)


def test_a_certificate_that_is_not_trusted_is_not_tried_again(
    transport: Transport, tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl, which makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "1"]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def shake_hands(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).close()

    with tls_listener(shake_hands) as (url, times):
        with pytest.raises(RemoteError, match="can't trust .*self.signed.*REQUESTS_CA_BUNDLE"):
            read(transport, Server(url=url), seconds=50)
        assert len(times) == 1

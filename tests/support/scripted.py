"""Web servers for tests that answer by a script and keep what they were asked."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """A server that answers each request by the next of its scripted answers."""

    answers: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    url: str = ""
    connections: int = 0
    closes_tls: bool = True
    """Whether it says over TLS that a connection ends, before it closes it."""

    @property
    def port(self) -> str:
        """The port that it listens at, in the URL's words."""
        return self.url.rpartition(":")[2]


class QuietServer(ThreadingHTTPServer):
    """A server to which clients that leave early are no news; `script` is put here."""

    script: Server
    # As many may connect before it gets to run.
    request_queue_size = 128

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connection."""
        self.script.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing."""


class TlsServer(QuietServer):
    """One that speaks TLS, with a context that is put here before the first request."""

    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread, and answer what it asks."""
        with self.context.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)
            if self.script.closes_tls:
                # Without waiting for the client to say so too.
                connection.setblocking(False)
                with suppress(OSError):
                    connection.unwrap()


@contextmanager
def scripted_servers(context: ssl.SSLContext | None = None) -> Iterator[Callable[[], Server]]:
    """Give what starts servers on loopback, which speak TLS if there is a context; end them."""
    running: list[ThreadingHTTPServer] = []

    def start() -> Server:
        server = Server()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.bodies.append(body.decode())
                server.seen.append((self.path, dict(self.headers)))
                answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                answer(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        http = (QuietServer if context is None else TlsServer)(("127.0.0.1", 0), Handler)
        http.script = server
        if isinstance(http, TlsServer):
            assert context is not None
            http.context = context
        http.daemon_threads = True
        # Polls often, so that its end takes no time.
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        running.append(http)
        scheme = "http" if context is None else "https"
        server.url = f"{scheme}://127.0.0.1:{http.server_port}"
        return server

    try:
        yield start
    finally:
        for http in running:
            http.shutdown()
            http.server_close()


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

"""An answer whose end nothing vouches for is the file once another one ends there too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import Mounter
from large_manifest import log_version_of
from stand_in import StandIn

WHOLE = b"all of the content" * 1000
ETAG = "an-etag"


class EndsEarly(ThreadingHTTPServer):
    """Ends its answers by closing the connection, the first two of them too early."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file"


class _Handler(BaseHTTPRequestHandler):
    server: EndsEarly

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.send_header("ETag", f'"{ETAG}"')
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(WHOLE[: len(WHOLE) // 2] if self.server.asked <= 2 else WHOLE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[EndsEarly]:
    with EndsEarly() as server:
        yield server
        server.shutdown()


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_connection_that_broke_is_not_taken_for_the_end(
    mounter: Mounter, stand_in: StandIn, server: EndsEarly, is_checked: bool
) -> None:
    name = f"uncertain-{is_checked}"
    row = {"digest": ETAG if is_checked else server.url, "ref": server.url}
    logged = log_version_of(stand_in, name, folders=1, files_per_folder=1, extra={"file": row})
    path = logged.source.replace(":", "/")
    mount = mounter()
    file = mount.path / path / "file"
    assert file.stat().st_size == len(WHOLE)
    assert file.read_bytes() == WHOLE
    # It is kept then.
    asked = server.asked
    assert file.read_bytes() == WHOLE
    assert server.asked == asked
    again = mounter()
    assert (again.path / path / "file").read_bytes() == WHOLE

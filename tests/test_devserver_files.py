"""The stand-in's file origin: signatures, ranges, uploads, faults, and the log of requests."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from stand_in import StandIn

from wbfs.devserver.files import create_files
from wbfs.devserver.origin import MultipartError, Origin

CONTENT = bytes(range(256)) * 4096


class Client(requests.Session):
    """Asks one server; a path alone is asked of it too."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.base_url = base_url

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request, with a time limit."""
        whole = url if url.startswith("http") else self.base_url + url
        return super().request(method, whole, timeout=10, **options)


@contextmanager
def serving(origin_folder: Path, public: Path) -> Iterator[tuple[Origin, Client]]:
    """Run the file origin in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    origin = Origin(origin_folder, base_url=lambda: base_url)
    app = create_files(origin=origin, public=public)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with Client(base_url) as client:
            yield origin, client
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Origin, Client]]:
    with serving(tmp_path / "data", tmp_path / "public") as both:
        yield both


@pytest.fixture
def origin(served: tuple[Origin, Client]) -> Origin:
    return served[0]


@pytest.fixture
def client(served: tuple[Origin, Client]) -> Client:
    return served[1]


@pytest.fixture
def url(origin: Origin, client: Client) -> str:
    """Return the signed URL of an object that was put."""
    assert client.put(origin.put_url("a/b c/é"), data=CONTENT).status_code == 200
    return origin.get_url("a/b c/é")


def test_get_and_head(client: Client, url: str) -> None:
    got, head = client.get(url), client.head(url)
    assert got.content == CONTENT
    assert (got.status_code, head.status_code) == (200, 200)
    for answer in (got, head):
        assert answer.headers["Content-Length"] == str(len(CONTENT))
        assert answer.headers["ETag"].startswith('"')
        assert answer.headers["Accept-Ranges"] == "bytes"
    assert head.content == b""


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, len(CONTENT)),
        ("bytes=-5", len(CONTENT) - 5, len(CONTENT)),
        (f"bytes=0-{len(CONTENT) * 2}", 0, len(CONTENT)),
        (f"bytes=-{len(CONTENT) * 2}", 0, len(CONTENT)),
    ],
)
def test_ranges(client: Client, url: str, asked: str, start: int, stop: int) -> None:
    got = client.get(url, headers={"Range": asked})
    assert got.status_code == 206
    assert got.content == CONTENT[start:stop]
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    assert got.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("asked", [f"bytes={len(CONTENT)}-", "bytes=-0", "bytes=-", "lines=1-2"])
def test_ranges_that_cannot_be_had(client: Client, url: str, asked: str) -> None:
    got = client.get(url, headers={"Range": asked})
    assert got.status_code == 416
    assert got.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


def test_if_range(client: Client, url: str) -> None:
    etag = client.head(url).headers["ETag"]
    same = client.get(url, headers={"Range": "bytes=0-9", "If-Range": etag})
    other = client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)


def test_signatures(client: Client, origin: Origin, url: str) -> None:
    tampered = re.sub(r"Signature=.", "Signature=_", url)
    assert "SignatureDoesNotMatch" in client.get(tampered).text
    for refused in (
        tampered,
        url.partition("?")[0],
        origin.get_url("a/other").replace("other", "x"),
    ):
        assert client.get(refused).status_code == 403
    assert client.put(url, data=b"x").status_code == 403
    assert client.get(origin.put_url("a/b c/é")).status_code == 403
    origin.lifetime_s = -1
    late = client.get(origin.get_url("a/b c/é"))
    assert (late.status_code, "ExpiredToken" in late.text) == (403, True)
    assert client.get(url).status_code == 200


def test_an_api_key_is_refused(client: Client, url: str) -> None:
    assert client.get(url, headers={"Authorization": "Basic x"}).status_code == 400


def test_urls_outlive_a_restart(client: Client, url: str, tmp_path: Path) -> None:
    path = url.removeprefix(client.base_url)
    with serving(tmp_path / "data", tmp_path / "public") as (_, restarted):
        assert restarted.get(path).content == CONTENT


def test_put_checks_its_digest(client: Client, origin: Origin) -> None:
    wrong = client.put(
        origin.put_url("k"), data=b"x", headers={"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
    )
    assert wrong.status_code == 400
    assert not origin.exists("k")


def test_multipart(client: Client, origin: Origin) -> None:
    upload, urls = origin.start_multipart("big", 2)
    etags = {}
    for number, (part_url, part) in enumerate(zip(urls, (b"one", b"two"), strict=True), 1):
        etags[number] = client.put(part_url, data=part).headers["ETag"]
        assert etags[number] == f'"{hashlib.md5(part).hexdigest()}"'
    with pytest.raises(MultipartError):
        origin.complete_multipart("big", upload, {1: etags[1], 2: etags[1]})
    origin.complete_multipart("big", upload, etags)
    assert origin.path("big").read_bytes() == b"onetwo"


def test_public_files_stay_in_their_folder(client: Client, tmp_path: Path) -> None:
    (tmp_path / "public/file").write_bytes(b"public")
    (tmp_path / "secret").write_bytes(b"secret")
    assert client.get("/public/file").content == b"public"
    assert client.get("/public/%2e%2e/secret").status_code in (403, 404)


@pytest.fixture(scope="module")
def public(stand_in: StandIn) -> str:
    """Return the URL of a public file of a running server."""
    stand_in.public_dir.mkdir(exist_ok=True)
    (stand_in.public_dir / "faulty").write_bytes(CONTENT)
    return f"{stand_in.public_url}/faulty"


def get(url: str, timeout_s: float = 10) -> requests.Response:
    return requests.get(url, timeout=timeout_s)


def test_faults(stand_in: StandIn, public: str) -> None:
    with stand_in.faults(error_share=1.0, error_status=502, match="/faulty", first=1):
        assert [get(public).status_code for _ in range(2)] == [502, 200]
    with stand_in.faults(wrong_bytes=True):
        wrong = get(public).content
        assert len(wrong) == len(CONTENT)
        assert wrong != CONTENT
    with stand_in.faults(expired_urls=True):
        assert "ExpiredToken" in get(public).text
    with stand_in.faults(requests_per_s=2):
        answers = [get(public) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert int(answers[-1].headers["Retry-After"]) >= 1
    began = time.monotonic()
    with stand_in.faults(delay_s=0.3):
        get(public)
    with stand_in.faults(bandwidth_bytes_per_s=len(CONTENT) * 2):
        assert get(public).content == CONTENT
    assert time.monotonic() - began > 0.7
    with stand_in.faults(stall=True), pytest.raises(requests.Timeout):
        get(public, 0.5)
    assert get(public).content == CONTENT


def test_a_cut_connection_and_the_log(stand_in: StandIn, public: str) -> None:
    stand_in.clear_requests()
    with (
        stand_in.faults(cut_after_bytes=1000),
        pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)),
    ):
        get(public)
    get(public)
    cut, whole = stand_in.requests(port="files", method="GET")
    assert (cut.bytes_sent, whole.bytes_sent) == (1000, len(CONTENT))
    assert (cut.status, whole.key, whole.authorization) == (200, "public/faulty", False)


def test_the_log_knows_operations_and_no_keys(stand_in: StandIn) -> None:
    stand_in.clear_requests()
    query = "query WhoAmI { viewer { username } }"
    answer = requests.post(
        f"{stand_in.base_url}/graphql",
        json={"query": query},
        auth=("api", stand_in.api_key),
        timeout=10,
    )
    assert answer.json() == {"data": {"viewer": {"username": "admin"}}}
    [request] = stand_in.requests(operation="WhoAmI")
    assert request.port == "api"
    assert request.user
    assert stand_in.api_key not in str(request)


def test_control_needs_the_admins_key(stand_in: StandIn) -> None:
    for name in ("ready", "requests", "faults"):
        url = f"{stand_in.base_url}/_devserver/{name}"
        assert requests.get(url, timeout=10).status_code == 401
        assert requests.get(url, auth=("api", "x"), timeout=10).status_code == 401
    wrong = requests.put(
        f"{stand_in.base_url}/_devserver/faults",
        json={"no_such_fault": 1},
        auth=("api", stand_in.api_key),
        timeout=10,
    )
    assert wrong.status_code == 400

"""The stand-in server's file origin, its faults and its request log, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from stand_in import STOP_TIMEOUT_S, StandIn

from wbfs.devserver import faults
from wbfs.devserver.errors import InvalidRequest
from wbfs.devserver.objects.origin import MultipartError, Origin
from wbfs.devserver.request_log import LoggedRequest

SIZE = 3 << 20
CONTENT = random.Random("content").randbytes(SIZE)
TIMEOUT_S = 100.0


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    """Return a session that reads no environment: no proxies and no netrc."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def origin_of(server: StandIn, lifetime_s: float = 3600) -> Origin:
    """Return a running server's objects; the secret that signs its URLs is in its folder."""
    return Origin(server.data_dir, base_url=lambda: server.files_url, lifetime_s=lifetime_s)


@pytest.fixture
def origin(stand_in: StandIn) -> Origin:
    """Return the shared server's objects."""
    return origin_of(stand_in)


@pytest.fixture
def url(origin: Origin, http: requests.Session) -> str:
    """Return the signed GET URL of an object that holds CONTENT."""
    if not origin.exists("folder/object"):
        put(http, origin.put_url("folder/object"), CONTENT)
    return origin.get_url("folder/object")


def put(http: requests.Session, url: str, body: bytes, **headers: str) -> requests.Response:
    return http.put(url, data=body, headers=headers, timeout=TIMEOUT_S)


def get(http: requests.Session, url: str, **headers: str) -> requests.Response:
    return http.get(url, headers=headers, timeout=TIMEOUT_S)


def error_code(answer: requests.Response) -> str:
    """Return the code in an object store's XML."""
    assert answer.headers["Content-Type"].startswith("application/xml")
    return answer.text.partition("<Code>")[2].partition("</Code>")[0]


def only_request(stand_in: StandIn) -> LoggedRequest:
    """Return the single request to the file port since the log was cleared."""
    (request,) = stand_in.requests(port="files")
    return request


# Objects and signed URLs


def test_get_and_head(http: requests.Session, url: str) -> None:
    answer = get(http, url)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    head = http.head(url, timeout=TIMEOUT_S)
    assert (head.status_code, head.content) == (200, b"")
    for headers in (answer.headers, head.headers):
        assert headers["ETag"] == f'"{hashlib.md5(CONTENT).hexdigest()}"'
        assert headers["Content-Length"] == str(SIZE)
        assert headers["Accept-Ranges"] == "bytes"
        assert headers["Last-Modified"].endswith("GMT")


def test_a_key_of_any_letters(http: requests.Session, origin: Origin) -> None:
    key = "a folder/100%/größe?x=1&y#z"
    put(http, origin.put_url(key), b"bytes")
    assert get(http, origin.get_url(key)).content == b"bytes"
    assert origin.size(key) == 5
    origin.delete(key)
    assert get(http, origin.get_url(key)).status_code == 404


def test_an_etag_is_the_content_s(
    http: requests.Session, origin: Origin, stand_in: StandIn
) -> None:
    first = put(http, origin.put_url("etag"), b"one")
    url = origin.get_url("etag")
    assert get(http, url).headers["ETag"] == first.headers["ETag"]
    put(http, origin.put_url("etag"), b"two")
    changed = get(http, url).headers["ETag"]
    assert changed != first.headers["ETag"]
    # Something else than a PUT: still another ETag than that of other bytes.
    origin.path("etag").write_bytes(b"three")
    assert get(http, url).headers["ETag"] not in (changed, first.headers["ETag"])


def test_an_expired_url_is_refused(http: requests.Session, stand_in: StandIn, url: str) -> None:
    short = origin_of(stand_in, lifetime_s=-1)
    answer = get(http, short.get_url("folder/object"))
    assert (answer.status_code, error_code(answer)) == (403, "AccessDenied")
    assert "expired" in answer.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("folder/object", "folder/other"),
        ("X-Expires=3600", "X-Expires=360000"),
        ("X-Date=1", "X-Date=2"),
        ("X-Signature=", "X-Signature=0"),
    ],
)
def test_a_changed_url_is_refused(http: requests.Session, url: str, old: str, new: str) -> None:
    assert old in url
    answer = get(http, url.replace(old, new))
    assert (answer.status_code, error_code(answer)) == (403, "SignatureDoesNotMatch")


def test_an_unsigned_url_is_refused(http: requests.Session, url: str) -> None:
    answer = get(http, url.partition("?")[0])
    assert (answer.status_code, error_code(answer)) == (403, "AccessDenied")


def test_a_url_is_good_for_its_method_only(
    http: requests.Session, origin: Origin, url: str
) -> None:
    assert error_code(put(http, url, b"other")) == "SignatureDoesNotMatch"
    assert error_code(get(http, origin.put_url("folder/object"))) == "SignatureDoesNotMatch"
    assert get(http, url).content == CONTENT


def test_a_missing_object_is_404(http: requests.Session, origin: Origin) -> None:
    for key in ("nothing", "folder", "folder/object/below"):
        answer = get(http, origin.get_url(key))
        assert (answer.status_code, error_code(answer)) == (404, "NoSuchKey")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "a/../../b", "..", "a//b", "./a", "a/", "n" * 256]
)
def test_a_key_never_leaves_the_folder(origin: Origin, key: str) -> None:
    for use in (origin.path, origin.get_url, origin.put_url, origin.delete):
        with pytest.raises(InvalidRequest):
            use(key)


def test_an_authorization_header_is_refused_and_noted(
    http: requests.Session, stand_in: StandIn, url: str
) -> None:
    stand_in.clear_requests()
    answer = http.get(url, auth=("api", "k" * 40), timeout=TIMEOUT_S)
    assert (answer.status_code, error_code(answer)) == (400, "InvalidArgument")
    logged = only_request(stand_in)
    assert logged.authorization
    assert logged.user == hashlib.sha256(b"k" * 40).hexdigest()[:12]


def test_the_log_has_no_secrets(http: requests.Session, stand_in: StandIn, url: str) -> None:
    http.get(url, auth=("api", stand_in.api_key), timeout=TIMEOUT_S)
    stand_in_log = repr(stand_in.requests()) + stand_in.log()
    assert stand_in.api_key not in stand_in_log
    assert "X-Signature" not in stand_in_log
    for name in ("api-key", "secret"):
        assert stat.S_IMODE((stand_in.data_dir / name).stat().st_mode) == 0o600


# Ranges


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=5-9", 5, 10),
        (f"bytes=1000000-{(2 << 20) + 5}", 1_000_000, (2 << 20) + 6),
        (f"bytes={SIZE - 3}-", SIZE - 3, SIZE),
        (f"bytes={SIZE - 3}-{SIZE + 100}", SIZE - 3, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=-{SIZE + 1}", 0, SIZE),
    ],
)
def test_a_range_is_exact(
    http: requests.Session, url: str, wanted: str, start: int, stop: int
) -> None:
    answer = get(http, url, Range=wanted)
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(stop - start)
    assert answer.content == CONTENT[start:stop]


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0"])
def test_a_range_beyond_the_end_is_416(http: requests.Session, url: str, wanted: str) -> None:
    answer = get(http, url, Range=wanted)
    assert (answer.status_code, error_code(answer)) == (416, "InvalidRange")
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "wanted", ["bytes=9-5", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes=1"]
)
def test_a_range_that_is_none_is_ignored(http: requests.Session, url: str, wanted: str) -> None:
    answer = get(http, url, Range=wanted)
    assert answer.status_code == 200
    assert answer.content == CONTENT


def test_an_empty_object(http: requests.Session, origin: Origin) -> None:
    put(http, origin.put_url("empty"), b"")
    whole = get(http, origin.get_url("empty"))
    assert (whole.status_code, whole.headers["Content-Length"]) == (200, "0")
    assert get(http, origin.get_url("empty"), Range="bytes=0-").status_code == 416


def test_if_range(http: requests.Session, url: str) -> None:
    found = get(http, url, Range="bytes=0-0").headers
    ranged = {"Range": "bytes=2-3"}
    for same in (found["ETag"], found["Last-Modified"]):
        answer = get(http, url, **ranged, **{"If-Range": same})
        assert (answer.status_code, answer.content) == (206, CONTENT[2:4])
    for other in ('"other"', f"W/{found['ETag']}", "Sat, 01 Jan 2000 00:00:00 GMT"):
        answer = get(http, url, **ranged, **{"If-Range": other})
        assert (answer.status_code, len(answer.content)) == (200, SIZE)


# Uploads


def test_put_checks_content_md5(http: requests.Session, origin: Origin) -> None:
    url = origin.put_url("checked")
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    answer = put(http, url, b"body", **{"Content-MD5": wrong})
    assert (answer.status_code, error_code(answer)) == (400, "BadDigest")
    assert not origin.exists("checked")
    right = base64.b64encode(hashlib.md5(b"body").digest()).decode()
    assert put(http, url, b"body", **{"Content-MD5": right}).status_code == 200
    assert origin.path("checked").read_bytes() == b"body"


def test_a_put_that_breaks_off_leaves_nothing(origin: Origin, stand_in: StandIn) -> None:
    target = urlsplit(origin.put_url("broken/off"))
    stand_in.clear_requests()
    with socket.create_connection((target.hostname, target.port), timeout=TIMEOUT_S) as connection:
        head = (
            f"PUT {target.path}?{target.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        )
        connection.sendall(head.encode() + b"only this")
    deadline = time.monotonic() + TIMEOUT_S
    while not [one for one in stand_in.requests(method="PUT") if one.status]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert only_request(stand_in).status == 400
    assert list(origin.path("broken/off").parent.iterdir()) == []


def test_multipart(http: requests.Session, origin: Origin) -> None:
    parts = [CONTENT[: 2 << 20], CONTENT[2 << 20 :]]
    upload, urls = origin.start_multipart("joined", len(parts))
    answers = [put(http, url, part) for url, part in zip(urls, parts, strict=True)]
    etags = {number: answer.headers["ETag"] for number, answer in enumerate(answers, 1)}
    with pytest.raises(MultipartError):
        origin.complete_multipart("joined", upload, {1: etags[1]})
    with pytest.raises(MultipartError):
        origin.complete_multipart("joined", upload, {1: etags[1], 2: etags[1]})
    assert not origin.exists("joined")
    origin.complete_multipart("joined", upload, etags)
    answer = get(http, origin.get_url("joined"))
    assert answer.content == CONTENT
    assert answer.headers["ETag"].endswith('-2"')
    with pytest.raises(MultipartError):
        origin.complete_multipart("joined", upload, etags)


def test_a_part_s_url_is_good_for_that_part_only(http: requests.Session, origin: Origin) -> None:
    upload, urls = origin.start_multipart("parts", 2)
    for changed in (
        urls[0].replace("partNumber=1", "partNumber=2"),
        urls[0].replace(upload, "0" * 32),
    ):
        assert error_code(put(http, changed, b"part")) == "SignatureDoesNotMatch"
    with pytest.raises(MultipartError):
        origin.complete_multipart("parts", upload, {1: "x", 2: "y"})


def test_public_files(http: requests.Session, stand_in: StandIn) -> None:
    (stand_in.public_dir / "folder").mkdir(exist_ok=True)
    (stand_in.public_dir / "folder/öffentlich").write_bytes(b"public bytes")
    url = f"{stand_in.public_url}/folder/öffentlich"
    answer = get(http, url, Range="bytes=7-")
    assert (answer.status_code, answer.content) == (206, b"bytes")
    etag = answer.headers["ETag"]
    assert get(http, url, **{"If-Range": etag, "Range": "bytes=0-0"}).content == b"p"
    (stand_in.public_dir / "folder/öffentlich").write_bytes(b"other bytes")
    assert get(http, url).headers["ETag"] != etag
    # A normalizing client would never send this.
    for path in ("/public/../secret", "/public/%2e%2e/secret", "/public//etc/passwd"):
        request = requests.Request("GET", stand_in.files_url).prepare()
        request.url = stand_in.files_url + path
        assert http.send(request, timeout=TIMEOUT_S).status_code in (403, 404)


# Faults


def test_delay(http: requests.Session, stand_in: StandIn, url: str) -> None:
    with stand_in.faults(delay_s=0.3, port="files"):
        began = time.monotonic()
        assert get(http, url, Range="bytes=0-0").status_code == 206
        assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("after", [0, 1000, (1 << 20) + 1])
def test_stall_in_the_body(http: requests.Session, stand_in: StandIn, url: str, after: int) -> None:
    stand_in.clear_requests()
    with stand_in.faults(stall_after_bytes=after, port="files"):
        with http.get(url, stream=True, timeout=8) as answer:
            assert answer.headers["Content-Length"] == str(SIZE)
            assert answer.raw.read(after) == CONTENT[:after]
            with pytest.raises(requests.exceptions.ConnectionError, match="timed out"):
                next(answer.iter_content(1))
        assert only_request(stand_in).bytes_sent == after


def test_stall_before_the_answer(http: requests.Session, stand_in: StandIn, url: str) -> None:
    with stand_in.faults(stall=True), pytest.raises(requests.exceptions.ReadTimeout):
        http.get(url, timeout=0.3)


def test_a_stall_ends_in_time(http: requests.Session, stand_in: StandIn, url: str) -> None:
    with (
        stand_in.faults(stall_after_bytes=10, stall_s=0.2, port="files"),
        pytest.raises(requests.exceptions.ChunkedEncodingError),
    ):
        get(http, url)


def test_bandwidth_is_each_connection_s(stand_in: StandIn, url: str) -> None:
    rate, count = 1 << 20, 8

    def seconds(_: int) -> float:
        with requests.Session() as http:
            http.trust_env = False
            began = time.monotonic()
            assert get(http, url).content == CONTENT
            return time.monotonic() - began

    with (
        stand_in.faults(bandwidth_bytes_per_s=rate, port="files"),
        ThreadPoolExecutor(count) as threads,
    ):
        # Together they would take as many times as long.
        for taken in threads.map(seconds, range(count)):
            assert SIZE / rate * 0.9 < taken < SIZE / rate * (count - 1)


def test_rate_limit(http: requests.Session, stand_in: StandIn, url: str) -> None:
    with stand_in.faults(requests_per_s=0.1, port="files"):
        answers = [http.head(url, timeout=TIMEOUT_S) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        time.sleep(int(answers[-1].headers["Retry-After"]))
        assert http.head(url, timeout=TIMEOUT_S).status_code == 200


def test_a_rate_is_of_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(faults.time, "monotonic", lambda: now_s)
    limited = faults.Faults()
    assert [limited._wait_s(3) for _ in range(5)] == [0, 0, 0, 1, 1]
    now_s += 0.9
    assert limited._wait_s(3) == 1
    now_s += 0.2
    assert [limited._wait_s(3) for _ in range(4)] == [0, 0, 0, 1]


def test_error_share_is_the_same_every_time(
    http: requests.Session, stand_in: StandIn, url: str
) -> None:
    seen = []
    for _ in range(2):
        with stand_in.faults(error_share=0.3, error_status=503, port="files"):
            seen.append([http.head(url, timeout=TIMEOUT_S).status_code for _ in range(60)])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 503}
    assert 8 <= seen[0].count(503) <= 28


@pytest.mark.parametrize("after", [0, 1, (2 << 20) + 3])
def test_a_cut_body(http: requests.Session, stand_in: StandIn, url: str, after: int) -> None:
    stand_in.clear_requests()
    with (
        stand_in.faults(cut_after_bytes=after, port="files"),
        http.get(url, stream=True, timeout=TIMEOUT_S) as answer,
    ):
        assert answer.headers["Content-Length"] == str(SIZE)
        assert answer.raw.read(after) == CONTENT[:after]
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            next(answer.iter_content(1))
    logged = only_request(stand_in)
    assert (logged.status, logged.bytes_sent) == (200, after)
    assert "Traceback" not in stand_in.log()


def test_wrong_bytes(http: requests.Session, stand_in: StandIn, url: str) -> None:
    with stand_in.faults(wrong_bytes=True, port="files"):
        wrong = get(http, url)
    assert len(wrong.content) == SIZE
    assert wrong.content != CONTENT
    assert wrong.headers["ETag"] == f'"{hashlib.md5(CONTENT).hexdigest()}"'


def test_answers_in_chunks(http: requests.Session, stand_in: StandIn, url: str) -> None:
    with stand_in.faults(chunked=True, port="files"):
        answer = http.get(url, timeout=TIMEOUT_S)
    assert answer.content == CONTENT
    assert "Content-Length" not in answer.headers
    assert answer.headers["Transfer-Encoding"] == "chunked"


def test_redirects(http: requests.Session, stand_in: StandIn, url: str) -> None:
    with stand_in.faults(redirects=2, port="files"):
        answer = http.get(url, headers={"Range": "bytes=1-2"}, timeout=TIMEOUT_S)
        assert answer.content == CONTENT[1:3]
        assert [one.status_code for one in answer.history] == [307, 307]
    with stand_in.faults(redirects=1, port="api"):
        query = {"query": "{ viewer { name } }"}
        auth = ("api", stand_in.api_key)
        answer = http.post(f"{stand_in.base_url}/graphql", json=query, auth=auth, timeout=TIMEOUT_S)
        assert answer.json()["data"] == {"viewer": {"name": "admin"}}
        assert [one.status_code for one in answer.history] == [307]


def test_retry_after(http: requests.Session, stand_in: StandIn, url: str) -> None:
    with stand_in.faults(error_share=1.0, error_status=429, retry_after_s=600, port="files"):
        answer = http.get(url, timeout=TIMEOUT_S)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "600"


def test_expired_and_revoked_urls(
    http: requests.Session, stand_in: StandIn, origin: Origin, url: str
) -> None:
    with stand_in.faults(revoked_urls=True):
        assert "expired" in get(http, url).text
        assert get(http, origin.get_url("folder/object"), Range="bytes=0-0").status_code == 206
    with stand_in.faults(expired_urls=True):
        assert "expired" in get(http, origin.get_url("folder/object")).text
    assert get(http, url, Range="bytes=0-0").status_code == 206


def test_url_lifetime(http: requests.Session, stand_in: StandIn) -> None:
    def file_url() -> str:
        """Let the API sign a URL."""
        query = """mutation CreateRunFiles($entity: String!, $project: String!, $run: String!,
            $files: [String!]!) { createRunFiles(input: {entityName: $entity,
            projectName: $project, runName: $run, files: $files}) { files { uploadUrl } } }"""
        names = {"entity": "admin", "project": "lifetime", "run": "r"}
        for text, variables in (
            (
                "mutation Make($entity: String, $project: String, $run: String) { upsertBucket("
                "input: {entityName: $entity, modelName: $project, name: $run}) { inserted } }",
                names,
            ),
            (query, {**names, "files": ["a"]}),
        ):
            answer = http.post(
                f"{stand_in.base_url}/graphql",
                json={"query": text, "variables": variables},
                auth=("api", stand_in.api_key),
                timeout=TIMEOUT_S,
            )
            assert "errors" not in answer.json(), answer.text
        found: str = answer.json()["data"]["createRunFiles"]["files"][0]["uploadUrl"]
        return found

    with stand_in.faults(url_lifetime_s=0.2):
        short = file_url()
        time.sleep(0.3)
        assert "expired" in put(http, short, b"late").text
    assert put(http, file_url(), b"in time").status_code == 200


def test_faults_of_some_requests_only(
    http: requests.Session, stand_in: StandIn, origin: Origin, url: str
) -> None:
    put(http, origin.put_url("another"), b"another")
    with stand_in.faults(error_share=1.0, match="^/folder/", first=2):
        assert get(http, origin.get_url("another")).status_code == 200
        statuses = [http.head(url, timeout=TIMEOUT_S).status_code for _ in range(3)]
    assert statuses == [500, 500, 200]
    with stand_in.faults(error_share=1.0, port="api"):
        assert http.head(url, timeout=TIMEOUT_S).status_code == 200
        assert http.post(f"{stand_in.base_url}/graphql", timeout=TIMEOUT_S).status_code == 500


# The request log and the control routes


def test_the_log_s_numbers(http: requests.Session, stand_in: StandIn, url: str) -> None:
    stand_in.clear_requests()
    get(http, url, Range="bytes=10-109", **{"User-Agent": "a test"})
    http.head(url, timeout=TIMEOUT_S)
    get(http, url)
    ranged, head, whole = stand_in.requests(port="files")
    assert (ranged.method, ranged.path, ranged.key) == ("GET", "/folder/object", "folder/object")
    assert (ranged.range, ranged.status, ranged.bytes_sent) == ("bytes=10-109", 206, 100)
    assert (ranged.user_agent, ranged.authorization, ranged.user) == ("a test", False, "")
    assert (head.method, head.status, head.bytes_sent) == ("HEAD", 200, 0)
    assert (whole.range, whole.bytes_sent) == ("", SIZE)
    assert [head.number, whole.number] == [ranged.number + 1, ranged.number + 2]
    assert ranged.time <= head.time <= whole.time <= time.time()


def test_operations_are_logged(http: requests.Session, stand_in: StandIn) -> None:
    stand_in.clear_requests()
    named = {"query": "query A { viewer { id } } query B { viewer { id } }", "operationName": "B"}
    unnamed = {"query": "query Who { viewer { id } }"}
    for document in (named, unnamed):
        answer = http.post(
            f"{stand_in.base_url}/graphql",
            json=document,
            auth=("api", stand_in.api_key),
            timeout=TIMEOUT_S,
        )
        assert answer.json()["data"]["viewer"]["id"]
    first, second = stand_in.requests(port="api")
    assert (first.operation, second.operation) == ("B", "Who")
    assert first.user == second.user != ""
    assert stand_in.requests(operation="Who") == [second]


def test_a_client_that_goes_is_not_sent_the_rest(
    http: requests.Session, stand_in: StandIn, origin: Origin
) -> None:
    size = 256 << 20
    origin.path("sparse").touch()
    os.truncate(origin.path("sparse"), size)
    stand_in.clear_requests()
    with http.get(origin.get_url("sparse"), stream=True, timeout=TIMEOUT_S) as answer:
        answer.raw.read(100)
    # Answered once the server is done with the one before.
    get(http, origin.get_url("nothing"))
    first = stand_in.requests(port="files")[0]
    assert 100 <= first.bytes_sent < 32 << 20


def test_control_routes_need_the_admin_s_key(http: requests.Session, stand_in: StandIn) -> None:
    for method, name in (
        ("GET", "ready"),
        ("GET", "requests"),
        ("DELETE", "requests"),
        ("GET", "faults"),
        ("PUT", "faults"),
        ("DELETE", "faults"),
    ):
        for auth in (None, ("api", "f" * 40), ("api", stand_in.api_key[:-1])):
            answer = http.request(
                method, f"{stand_in.base_url}/_devserver/{name}", auth=auth, timeout=TIMEOUT_S
            )
            assert answer.status_code == 401, (method, name)


@pytest.mark.parametrize(
    "document", [{"dealy_s": 1}, {"delay_s": "1"}, {"match": "("}, {"port": "file"}, []]
)
def test_faults_that_are_none_are_refused(
    http: requests.Session, stand_in: StandIn, document: object
) -> None:
    where = f"{stand_in.base_url}/_devserver/faults"
    auth = ("api", stand_in.api_key)
    answer = http.put(where, json=document, auth=auth, timeout=TIMEOUT_S)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert http.get(where, auth=auth, timeout=TIMEOUT_S).json()["delay_s"] == 0


# The process


def test_a_restart_keeps_objects_and_urls(http: requests.Session, fresh_stand_in: StandIn) -> None:
    origin = origin_of(fresh_stand_in)
    put(http, origin.put_url("kept"), b"kept")
    url, key = origin.get_url("kept"), fresh_stand_in.api_key
    etag = get(http, url).headers["ETag"]
    fresh_stand_in.restart()
    answer = get(http, url)
    assert (answer.content, answer.headers["ETag"]) == (b"kept", etag)
    assert fresh_stand_in.api_key == key


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_with_stalled_clients(
    fresh_stand_in: StandIn, http: requests.Session, number: signal.Signals
) -> None:
    origin = origin_of(fresh_stand_in)
    put(http, origin.put_url("object"), CONTENT)
    faults = {"stall_after_bytes": 5, "port": "files"}
    assert http.put(
        f"{fresh_stand_in.base_url}/_devserver/faults",
        json=faults,
        auth=("api", fresh_stand_in.api_key),
        timeout=TIMEOUT_S,
    ).ok

    def wait(_: int) -> None:
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            requests.get(origin.get_url("object"), timeout=TIMEOUT_S)

    with ThreadPoolExecutor(2) as threads:
        waiting = threads.map(wait, range(2))
        deadline = time.monotonic() + TIMEOUT_S
        while sum(one.bytes_sent for one in fresh_stand_in.requests(method="GET")) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        began = time.monotonic()
        assert fresh_stand_in.end(number) == 0
        assert time.monotonic() - began < STOP_TIMEOUT_S
        assert list(waiting) == [None, None]
    assert "Traceback" not in fresh_stand_in.log()


def test_the_command_says_how_to_use_it(stand_in: StandIn) -> None:
    assert f"export WANDB_BASE_URL={stand_in.base_url}\n" in stand_in.log()
    assert f"export WANDB_API_KEY=$(cat {stand_in.data_dir}/api-key)\n" in stand_in.log()


def test_a_port_in_use_and_a_missing_extra_are_one_line(stand_in: StandIn, tmp_path: Path) -> None:
    port = stand_in.base_url.rpartition(":")[2]
    run = "from wbfs.cli.main import main; main()"
    without = "import sys; sys.modules['ariadne'] = None; "
    for program, options, words in (
        (run, ["--port", port], f"127.0.0.1:{port}"),
        (without + run, [], "pip install 'wbfs[devserver]'"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, "devserver", "--data-dir", str(tmp_path), *options],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode != 0
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1

"""References to s3:// against a real server on loopback, moto's, and against a scripted one."""

from __future__ import annotations

import gzip
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from mounts import check
from object_stores import (
    Asked,
    NoNetwork,
    Scripted,
    isolate,
    read,
    s3_server,
    scripted_store,
)

from wbfs.model.entries import Reference
from wbfs.model.errors import (
    AccessDenied,
    Offline,
    ReferenceChanged,
    ReferenceIsFolder,
    ReferenceMissing,
    ReferenceUnsupported,
    RemoteError,
    RemoteTimeout,
    WbfsError,
)
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References, objects

botocore_session = pytest.importorskip("botocore.session")

ONE = bytes(range(256)) * 1000
TWO = bytes(reversed(ONE))
ODD_NAME = "a folder/é+%23?x#y;z=1&q~(1)'*!.bin"
KEY_ID, KEY = "AKIAEXAMPLEEXAMPLE00", "a-secret-that-no-text-may-hold"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def store() -> Iterator[Scripted]:
    with scripted_store() as running:
        yield running


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give this process credentials, and nothing else that it may find of AWS."""
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    return tmp_path


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def s3(server: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client of the server, which the handlers are led to as well."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    return botocore_session.Session().create_client("s3", endpoint_url=server)


@pytest.fixture
def transport() -> Iterator[Transport]:
    one = Transport()
    yield one
    one.close()


@pytest.fixture
def references(transport: Transport) -> References:
    return References(transport)


Bucket = Callable[..., str]


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> Bucket:
    """Return what makes a bucket of this test's own."""

    def make(*, versioned: bool = False) -> str:
        name = f"bucket-{abs(hash(request.node.nodeid))}"
        s3.create_bucket(Bucket=name)
        if versioned:
            s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    return make


def put(s3: Any, bucket: str, key: str, content: bytes, **settings: str) -> Reference:
    """Store an object; return the reference that the SDK would log of it."""
    answer = s3.put_object(Bucket=bucket, Key=key, Body=content, **settings)
    etag = answer["ETag"].strip('"')
    return Reference(
        uri=f"s3://{bucket}/{key}", token=etag, etag=etag, version_id=answer.get("VersionId", "")
    )


def unchecked(uri: str) -> Reference:
    return Reference(uri=uri, token=uri)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 1), (5, 10), (255_999, 256_000), (100, None), (9, 999_999)]
)
def test_ranges(
    s3: Any, bucket: Bucket, references: References, start: int, stop: int | None
) -> None:
    reference = put(s3, bucket(), ODD_NAME, ONE)
    assert read(references, reference, start, stop) == ONE[start:stop]


def test_what_was_stored_compressed_comes_as_it_was_stored(
    s3: Any, bucket: Bucket, references: References
) -> None:
    content = gzip.compress(ONE)
    reference = put(s3, bucket(), "x.gz", content, ContentEncoding="gzip")
    assert read(references, reference) == content
    assert read(references, reference, 3, 9) == content[3:9]


def test_the_recorded_version_is_read_whatever_came_later(
    s3: Any, bucket: Bucket, references: References
) -> None:
    name = bucket(versioned=True)
    reference = put(s3, name, "key", ONE)
    put(s3, name, "key", TWO)
    assert read(references, reference, 5, 10) == ONE[5:10]
    s3.delete_object(Bucket=name, Key="key")
    assert read(references, reference) == ONE
    s3.delete_object(Bucket=name, Key="key", VersionId=reference.version_id)
    with pytest.raises(ReferenceMissing, match=f"version '{reference.version_id}'.*is gone"):
        read(references, reference)


def test_a_version_that_was_not_recorded_is_found_by_its_etag(
    s3: Any, bucket: Bucket, references: References
) -> None:
    name = bucket(versioned=True)
    recorded = put(s3, name, "key", ONE)
    put(s3, name, "key", TWO)
    put(s3, name, "key and more", ONE)
    old = Reference(uri=recorded.uri, token=recorded.token, etag=recorded.etag)
    assert read(references, old, 0, 10) == ONE[:10]
    assert read(references, old, 10, 20) == ONE[10:20]
    s3.delete_object(Bucket=name, Key="key", VersionId=recorded.version_id)
    with pytest.raises(ReferenceMissing, match="is gone"):
        read(references, old)
    with pytest.raises(ReferenceChanged, match="no longer the object that was logged"):
        read(References(Transport()), old)


def test_an_object_that_was_replaced_is_not_given(
    s3: Any, bucket: Bucket, references: References
) -> None:
    name = bucket()
    reference = put(s3, name, "key", ONE)
    put(s3, name, "key", TWO)
    for start, stop in [(0, None), (5, 10)]:
        with pytest.raises(ReferenceChanged, match="log the artifact again") as caught:
            read(references, reference, start, stop)
        assert not isinstance(caught.value, ReferenceMissing)
        assert f"s3://{name}/key" in str(caught.value)
    assert read(references, unchecked(reference.uri)) == TWO


def test_an_object_that_shrank_is_not_the_one_that_was_begun(
    s3: Any, bucket: Bucket, references: References
) -> None:
    reference = put(s3, bucket(), "key", b"short")
    with pytest.raises(ReferenceChanged):
        read(references, unchecked(reference.uri), 100, 200)


def test_what_is_gone_is_missing(s3: Any, bucket: Bucket, references: References) -> None:
    name = bucket()
    reference = put(s3, name, "key", ONE)
    s3.delete_object(Bucket=name, Key="key")
    for one in (reference, unchecked(reference.uri), unchecked("s3://no-such-bucket/key")):
        with pytest.raises(ReferenceMissing, match="is gone"):
            read(references, one)


def test_public_objects_need_no_credentials(
    s3: Any, bucket: Bucket, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bucket()
    public = put(s3, name, "public", ONE, ACL="public-read")
    private = put(s3, name, "private", ONE)
    without_credentials(monkeypatch)
    assert read(references, public, 5, 10) == ONE[5:10]
    with pytest.raises(AccessDenied, match=r"(?s)not public, and no AWS cred.*aws configure"):
        read(references, private)


def test_denied_with_credentials(s3: Any, bucket: Bucket, references: References) -> None:
    name = bucket()
    reference = put(s3, name, "key", ONE)
    policy = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject"}
    statement = policy | {"Resource": f"arn:aws:s3:::{name}/*"}
    s3.put_bucket_policy(
        Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    with pytest.raises(AccessDenied, match="the AWS credentials that were found don't allow it"):
        read(references, reference)


def test_many_threads_at_once(s3: Any, bucket: Bucket, references: References) -> None:
    reference = put(s3, bucket(), "key", ONE)
    ranges = [(start, start + 5000) for start in range(0, 250_000, 5000)]
    with ThreadPoolExecutor(48) as pool:
        found = list(pool.map(lambda one: read(references, reference, *one, timeout_s=100), ranges))
    assert found == [ONE[start:stop] for start, stop in ranges]


def test_no_secret_in_any_text(
    s3: Any,
    bucket: Bucket,
    references: References,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # As the command line does it: signed URLs are in its lines.
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.ERROR, logger="urllib3")
    name = bucket()
    reference = put(s3, name, "key", ONE)
    read(references, reference)
    put(s3, name, "key", TWO)
    with pytest.raises(ReferenceChanged) as caught:
        read(references, reference)
    texts = [str(caught.value), repr(caught.value), caplog.text]
    assert not [text for text in texts if KEY in text or "Signature" in text]


def test_a_missing_extra_is_named(
    home: Path, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("botocore", "botocore.config", "botocore.session"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ReferenceUnsupported, match=r"pip install 'wbfs\[s3\]'"):
        read(references, unchecked("s3://bucket/key"))


def test_nothing_of_any_vendor_is_imported_before_it_is_needed() -> None:
    program = (
        "import sys, wbfs.cli.main, wbfs.remote.references;"
        "print([name for name in ('azure', 'boto3', 'botocore', 'google') if name in sys.modules])"
    )
    assert check(sys.executable, "-c", program) == "[]\n"


def test_nobody_waits_for_a_look_up_beyond_the_deadline() -> None:
    looking, found = threading.Event(), threading.Event()

    def look_up(deadline: Deadline) -> tuple[str, float]:
        looking.set()
        assert found.wait(100)
        return "found", 60.0

    kept = objects.Kept(look_up)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(kept.get, Deadline.after(100))
        assert looking.wait(50)
        with pytest.raises(RemoteTimeout, match="looking for credentials"):
            kept.get(Deadline.after(0.1))
        found.set()
        assert first.result(50) == "found"
    assert kept.get(Deadline.after(0.1)) == "found"


def test_an_offline_mount_asks_nobody(home: Path) -> None:
    with pytest.raises(Offline):
        read(References(Transport(offline=True)), unchecked("s3://bucket/key"))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket//key",
        "s3:///key",
        "s3://bucket/a/../../other/key",
        "s3://bucket/./key",
        "s3://bucket/a\ud800",
        "s3://evil.example:80/key",
        "s3://arn:aws:s3:us-east-1:1:accesspoint/x",
    ],
)
def test_names_that_can_not_be_asked_for(home: Path, uri: str) -> None:
    transport = NoNetwork()
    with pytest.raises((ReferenceUnsupported, ReferenceIsFolder)):
        read(References(transport), unchecked(uri))
    assert not transport.urls


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, "https://bucket.s3.amazonaws.com/key?"),
        ({"AWS_REGION": "eu-west-1"}, "https://bucket.s3.eu-west-1.amazonaws.com/key?"),
        ({"AWS_ENDPOINT_URL": "https://minio.example:9000"}, "https://minio.example:9000/bucket/"),
        ({"AWS_ENDPOINT_URL_S3": "http://one.example"}, "http://one.example/bucket/key?"),
        ({"AWS_S3_ENDPOINT_URL": "http://one.example"}, "http://one.example/bucket/key?"),
        ({"AWS_S3_ENDPOINT_URL": "https://cwobject.com"}, "https://bucket.cwobject.com/key?"),
        ({"AWS_S3_ENDPOINT_URL": "http://cwlota.com/"}, "http://bucket.cwlota.com/key?"),
    ],
)
def test_where_an_object_is_asked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], host: str
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    transport = NoNetwork()
    with pytest.raises(RemoteError):
        read(References(transport), unchecked("s3://bucket/key"))
    assert transport.urls[0].startswith(host)
    assert KEY_ID in transport.urls[0]


def test_a_signed_url_is_sent_as_it_was_signed(home: Path) -> None:
    transport = NoNetwork()
    with pytest.raises(RemoteError):
        read(References(transport), unchecked(f"s3://bucket/{ODD_NAME}"))
    assert requests.Request("GET", transport.urls[0]).prepare().url == transport.urls[0]


@pytest.mark.parametrize("token", ["é☃", "a\r\nHost: b"])
def test_an_etag_that_there_can_not_be(home: Path, token: str) -> None:
    transport = NoNetwork()
    with pytest.raises(ReferenceChanged):
        read(References(transport), Reference(uri="s3://bucket/key", token=token))
    assert not transport.urls


def signed(asked: Asked) -> bool:
    return "X-Amz-Signature" in asked.path


@pytest.fixture
def scripted(
    store: Scripted, home: Path, monkeypatch: pytest.MonkeyPatch, references: References
) -> Callable[..., bytes]:
    """Return what reads `s3://bucket/key`, of ETag "one", from the scripted store."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)

    def ask(start: int = 0, stop: int | None = None, timeout_s: float = 100.0) -> bytes:
        reference = Reference(uri="s3://bucket/key", token="one", etag="one")
        return read(references, reference, start, stop, timeout_s=timeout_s)

    return ask


def test_the_bucket_s_region_is_learnt(store: Scripted, scripted: Callable[..., bytes]) -> None:
    def answer(asked: Asked) -> Any:
        if "eu-west-1" in asked.path:
            return 200, {"ETag": '"one"'}, ONE
        body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
        return 400, {}, body

    store.answer = answer
    assert scripted() == ONE
    assert scripted() == ONE
    assert len(store.asked) == 3


def test_what_is_refused_with_credentials_may_be_public(
    store: Scripted, scripted: Callable[..., bytes]
) -> None:
    def answer(asked: Asked) -> Any:
        if signed(asked):
            return 403, {}, b"<Error><Code>InvalidAccessKeyId</Code></Error>"
        return 200, {"ETag": '"one"'}, ONE

    store.answer = answer
    assert scripted() == ONE
    store.answer = lambda asked: (400, {}, b"<Error><Code>ExpiredToken</Code></Error>")
    with pytest.raises(AccessDenied, match="400 ExpiredToken"):
        scripted()


def test_credentials_that_were_renewed_are_taken_up(
    store: Scripted,
    scripted: Callable[..., bytes],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_credentials(monkeypatch)
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = s\naws_session_token = t\n"
    file = home / "aws-credentials"
    file.write_text(text.format("OLD"))

    def answer(asked: Asked) -> Any:
        if "Credential=NEW" in asked.path:
            return 200, {"ETag": '"one"'}, ONE
        return 400, {}, b"<Error><Code>ExpiredToken</Code></Error>"

    store.answer = answer
    with pytest.raises(AccessDenied):
        scripted()
    file.write_text(text.format("NEW"))
    with pytest.raises(AccessDenied):
        scripted()
    monkeypatch.setattr(objects, "LOOK_AGAIN_S", 0)
    assert scripted() == ONE
    asked = len(store.asked)
    assert scripted() == ONE
    assert len(store.asked) == asked + 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((503, {}, b"<Error><Code>SlowDown</Code></Error>"), RemoteError),
        ((418, {}, b""), RemoteError),
        # A store that knows no If-Match.
        ((200, {"ETag": '"two"'}, TWO), ReferenceChanged),
        ((200, {}, TWO), ReferenceChanged),
    ],
)
def test_answers_that_are_no_bytes(
    store: Scripted, scripted: Callable[..., bytes], answer: Any, error: type[WbfsError]
) -> None:
    store.answer = lambda asked: answer
    with pytest.raises(error) as caught:
        scripted(timeout_s=4.0)
    assert "X-Amz" not in str(caught.value)


def test_a_store_that_gives_no_ranges(store: Scripted, scripted: Callable[..., bytes]) -> None:
    store.answer = lambda asked: (200, {"ETag": '"one"'}, ONE)
    # All that it has, from the first byte.
    assert scripted(5, 10) == ONE
    assert store.asked[0].headers["range"] == "bytes=5-9"
    assert store.asked[0].headers["if-match"] == '"one"'


def test_a_failure_that_passes_is_retried(store: Scripted, scripted: Callable[..., bytes]) -> None:
    store.answer = lambda asked: (
        (200, {"ETag": '"one"'}, ONE) if len(store.asked) > 2 else (503, {}, b"")
    )
    assert scripted() == ONE


def test_a_silent_store_is_given_up_in_time(
    store: Scripted, scripted: Callable[..., bytes]
) -> None:
    def answer(asked: Asked) -> Any:
        time.sleep(60)
        return 200, {"ETag": '"one"'}, ONE

    store.answer = answer
    began = time.monotonic()
    with pytest.raises(RemoteTimeout):
        scripted(timeout_s=4.0)
    assert time.monotonic() - began < 50


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AWS_PROFILE": "nobody"}, "nobody.*correct them"),
        ({"AWS_ENDPOINT_URL": "no url"}, "no url"),
    ],
)
def test_settings_that_can_not_be_used(
    home: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], words: str
) -> None:
    without_credentials(monkeypatch)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AccessDenied, match=words):
        read(References(NoNetwork()), unchecked("s3://bucket/key"))

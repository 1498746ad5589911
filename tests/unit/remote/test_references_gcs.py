"""References to gs:// against a real server on loopback, fake-gcs-server, and a scripted one."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from object_stores import (
    Asked,
    NoNetwork,
    Scripted,
    gcs_server,
    isolate,
    read,
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
    WbfsError,
)
from wbfs.remote.http.transport import Transport
from wbfs.remote.references import References, gcs

pytest.importorskip("google.auth")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")

ONE = bytes(range(256)) * 1000
TWO = bytes(reversed(ONE))
ODD_NAME = "a folder/é+%23?x#y;z=1&q.bin"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gcs_server(tmp_path_factory.mktemp("fake-gcs-server")) as url:
        yield url


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    isolate(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def references() -> Iterator[References]:
    transport = Transport()
    yield References(transport)
    transport.close()


class Bucket:
    """A bucket on the server, by Google's JSON API."""

    def __init__(self, server: str, name: str, *, versioned: bool) -> None:
        self.name = name
        self._server = server
        self._ask(
            "POST",
            "/storage/v1/b",
            json={"name": name, "versioning": {"enabled": versioned}},
        )

    def _ask(self, method: str, path: str, **settings: Any) -> Any:
        answer = requests.request(method, self._server + path, timeout=100, **settings)
        assert answer.ok, answer.text
        return answer.json() if answer.content.strip() else None

    def put(self, key: str, content: bytes, encoding: str = "") -> Reference:
        """Store an object; return the reference that the SDK would log of it."""
        query = {"uploadType": "media", "name": key, "contentEncoding": encoding}
        found = self._ask("POST", f"/upload/storage/v1/b/{self.name}/o", params=query, data=content)
        return Reference(
            uri=f"gs://{self.name}/{key}", token=found["etag"], version_id=found["generation"]
        )

    def delete(self, key: str) -> None:
        self._ask("DELETE", f"/storage/v1/b/{self.name}/o/{quote(key, safe='')}")


@pytest.fixture
def bucket(
    server: str, home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., Bucket]:
    """Return what makes a bucket of this test's own, on the server that the handlers are led to."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)

    def make(*, versioned: bool = False) -> Bucket:
        return Bucket(server, f"bucket-{abs(hash(request.node.nodeid))}", versioned=versioned)

    return make


def unchecked(uri: str) -> Reference:
    return Reference(uri=uri, token=uri)


def without_generation(reference: Reference) -> Reference:
    return Reference(uri=reference.uri, token=reference.token)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 1), (5, 10), (255_999, 256_000), (100, None), (9, 999_999)]
)
def test_ranges(
    bucket: Callable[..., Bucket], references: References, start: int, stop: int | None
) -> None:
    reference = bucket().put(ODD_NAME, ONE)
    assert read(references, reference, start, stop) == ONE[start:stop]
    assert read(references, without_generation(reference), start, stop) == ONE[start:stop]
    assert read(references, unchecked(reference.uri), start, stop) == ONE[start:stop]


def test_what_was_stored_compressed_comes_as_it_was_stored(
    bucket: Callable[..., Bucket], references: References
) -> None:
    content = gzip.compress(ONE)
    reference = bucket().put("x.gz", content, encoding="gzip")
    assert read(references, reference) == content
    assert read(references, reference, 3, 9) == content[3:9]


def test_the_recorded_generation_is_read_whatever_came_later(
    bucket: Callable[..., Bucket], references: References
) -> None:
    versioned = bucket(versioned=True)
    reference = versioned.put("key", ONE)
    versioned.put("key", TWO)
    assert read(references, reference, 5, 10) == ONE[5:10]
    with pytest.raises(ReferenceChanged, match="no longer the object that was logged"):
        read(references, without_generation(reference))
    versioned.delete("key")
    assert read(references, reference) == ONE


def test_an_object_that_was_replaced_is_not_given(
    bucket: Callable[..., Bucket], references: References
) -> None:
    plain = bucket()
    reference = plain.put("key", ONE)
    plain.put("key", TWO)
    for start, stop in [(0, None), (5, 10)]:
        with pytest.raises(ReferenceChanged, match="log the artifact again") as caught:
            read(references, reference, start, stop)
        assert not isinstance(caught.value, ReferenceMissing)
        assert f"gs://{plain.name}/key" in str(caught.value)
    assert read(references, unchecked(reference.uri)) == TWO


def test_a_generation_that_was_looked_up_stays_the_one_that_is_read(
    bucket: Callable[..., Bucket], references: References
) -> None:
    plain = bucket()
    reference = without_generation(plain.put("key", ONE))
    assert read(references, reference, 0, 5) == ONE[:5]
    plain.put("key", TWO)
    with pytest.raises(ReferenceChanged):
        read(references, reference, 5, 10)


def test_what_is_gone_is_missing(bucket: Callable[..., Bucket], references: References) -> None:
    plain = bucket()
    reference = plain.put("key", ONE)
    plain.delete("key")
    for one in (
        reference,
        without_generation(reference),
        unchecked(reference.uri),
        unchecked("gs://no-such-bucket/key"),
    ):
        with pytest.raises(ReferenceMissing, match="is gone"):
            read(references, one)


def test_many_threads_at_once(bucket: Callable[..., Bucket], references: References) -> None:
    reference = bucket().put("key", ONE)
    ranges = [(start, start + 5000) for start in range(0, 250_000, 5000)]
    with ThreadPoolExecutor(48) as pool:
        found = list(pool.map(lambda one: read(references, reference, *one, timeout_s=100), ranges))
    assert found == [ONE[start:stop] for start, stop in ranges]


def test_a_missing_extra_is_named(
    home: Path, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("google.auth", "google.auth.transport", "google.auth.transport.requests"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ReferenceUnsupported, match=r"pip install 'wbfs\[gcs\]'"):
        read(references, unchecked("gs://bucket/key"))


def test_an_offline_mount_asks_nobody(home: Path) -> None:
    with pytest.raises(Offline):
        read(References(Transport(offline=True)), unchecked("gs://bucket/key"))


@pytest.mark.parametrize(
    "uri", ["gs://", "gs://bucket/", "gs:///key", "gs://bucket/..", "gs://b/a\udc80"]
)
def test_names_that_can_not_be_asked_for(home: Path, uri: str) -> None:
    transport = NoNetwork()
    with pytest.raises((ReferenceUnsupported, ReferenceIsFolder)):
        read(References(transport), unchecked(uri))
    assert not transport.urls


@pytest.mark.parametrize(
    ("emulator", "server"),
    [
        ("", "https://storage.googleapis.com"),
        ("http://localhost:9/", "http://localhost:9"),
        ("localhost:9", "http://localhost:9"),
    ],
)
def test_where_an_object_is_asked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, emulator: str, server: str
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    transport = NoNetwork()
    with pytest.raises(RemoteError):
        read(References(transport), Reference(uri="gs://b/a/k", token="t", version_id="7"))
    assert transport.urls == [f"{server}/download/storage/v1/b/b/o/a%2Fk?alt=media&generation=7"]


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """Return a scripted store in Google's place, to which one signs in as to Google."""
    with scripted_store() as running:
        monkeypatch.setattr(gcs, "SERVER", running.url)
        yield running


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return text.decode()


@pytest.fixture
def logged_in(
    store: Scripted, private_key: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave the credentials of a service account, for which the store gives tokens."""
    document = {
        "type": "service_account",
        "project_id": "project",
        "client_email": "someone@example",
        "private_key": private_key,
        "token_uri": f"{store.url}/token",
    }
    file = home / "credentials.json"
    file.write_text(json.dumps(document))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")


REFERENCE = Reference(uri="gs://bucket/key", token="etag", version_id="7")
TOKEN = json.dumps({"access_token": "an-access-token", "expires_in": 3600}).encode()


def test_the_token_is_fetched_once_and_sent(
    store: Scripted, logged_in: None, references: References
) -> None:
    def answer(asked: Asked) -> Any:
        if asked.path == "/token":
            return 200, {"Content-Type": "application/json"}, TOKEN
        authorized = asked.headers.get("authorization") == "Bearer an-access-token"
        return (200, {}, ONE) if authorized else (401, {}, b"")

    store.answer = answer
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: read(references, REFERENCE), range(16)))
    assert found == [ONE] * 16
    assert len([asked for asked in store.asked if asked.path == "/token"]) == 1
    assert store.asked[-1].headers["x-goog-user-project"] == "payer"


def test_denied_with_credentials(store: Scripted, logged_in: None, references: References) -> None:
    store.answer = lambda asked: (200, {}, TOKEN) if asked.path == "/token" else (403, {}, b"")
    with pytest.raises(AccessDenied, match="role Storage Object Viewer") as caught:
        read(references, REFERENCE)
    assert "an-access-token" not in str(caught.value)
    # With the token, and without.
    assert ["authorization" in asked.headers for asked in store.asked[1:]] == [True, False]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((400, b'{"error": "invalid_grant"}'), AccessDenied, "gcloud auth application-default"),
        ((403, b"no json"), AccessDenied, "can't use the Google credentials"),
    ],
)
def test_credentials_that_can_not_be_used(
    store: Scripted,
    logged_in: None,
    references: References,
    answer: tuple[int, bytes],
    error: type[WbfsError],
    words: str,
) -> None:
    store.answer = lambda asked: (answer[0], {"Content-Type": "application/json"}, answer[1])
    with pytest.raises(error, match=words) as caught:
        read(references, REFERENCE)
    assert "PRIVATE KEY" not in str(caught.value)


def test_a_file_of_credentials_that_is_not_there(
    home: Path, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/credentials.json")
    with pytest.raises(AccessDenied, match="/nowhere/credentials.json"):
        read(references, REFERENCE)


def test_public_objects_need_no_credentials(store: Scripted, references: References) -> None:
    store.answer = lambda asked: (200, {}, ONE)
    assert read(references, REFERENCE) == ONE
    store.answer = lambda asked: (401, {}, b"Anonymous caller does not have access")
    with pytest.raises(AccessDenied, match="not public, and no Google cred.*gcloud auth"):
        read(references, REFERENCE)


def test_answers_that_are_none(store: Scripted, references: References) -> None:
    for body in (b"no json", b"[]", b'{"etag": "etag"}'):
        store.answer = lambda asked, body=body: (200, {}, body)  # type: ignore[misc]
        with pytest.raises(RemoteError, match="in a way of its own"):
            read(references, without_generation(REFERENCE))
    store.answer = lambda asked: (503, {}, b"")
    with pytest.raises(RemoteError, match="503"):
        read(references, REFERENCE, timeout_s=4.0)

"""References to Azure Blob Storage against a real server on loopback, Azurite, and a scripted."""

from __future__ import annotations

import gzip
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from object_stores import Asked, NoNetwork, Scripted, azure_server, isolate, read, scripted_store

from wbfs.model.entries import Reference
from wbfs.model.errors import (
    AccessDenied,
    Offline,
    ReferenceChanged,
    ReferenceIsFolder,
    ReferenceMissing,
    ReferenceUnsupported,
    RemoteError,
)
from wbfs.remote.http.transport import Transport
from wbfs.remote.references import References
from wbfs.remote.references.http import HttpReferences

blob_storage = pytest.importorskip("azure.storage.blob")
pytest.importorskip("azure.identity")

ONE = bytes(range(256)) * 1000
TWO = bytes(reversed(ONE))
ODD_NAME = "a folder/é+%23?x#y;z=1&q~.bin"
ACCOUNT = "devstoreaccount1"
# Azurite's own, which is in its documentation.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with azure_server(tmp_path_factory.mktemp("azurite")) as url:
        yield f"{url}/{ACCOUNT}"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    isolate(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def references() -> Iterator[References]:
    transport = Transport()
    yield References(transport)
    transport.close()


class Container:
    """A container on the server, by Azure's own client."""

    def __init__(self, server: str, name: str, **settings: Any) -> None:
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        self._client = blob_storage.ContainerClient(server, name, credential=credential)
        self._client.create_container(**settings)
        self.url = f"https://{ACCOUNT}.blob.core.windows.net/{name}"

    def put(self, key: str, content: bytes, encoding: str | None = None) -> Reference:
        """Store a blob; return the reference that the SDK would log of it."""
        settings = blob_storage.ContentSettings(content_encoding=encoding)
        found = self._client.upload_blob(key, content, overwrite=True, content_settings=settings)
        etag = found.get_blob_properties().etag.strip('"')
        return Reference(uri=f"{self.url}/{key}", token=etag, etag=etag)

    def delete(self, key: str) -> None:
        self._client.delete_blob(key)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def container(
    server: str, home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Container]]:
    """Return what makes a container of this test's own; the handlers are led to the server."""
    point_to(server, monkeypatch, AccountKey=KEY)
    made: list[Container] = []

    def make(**settings: Any) -> Container:
        name = f"container-{abs(hash(request.node.nodeid))}"
        made.append(Container(server, name, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    """Name a server, and a key or signature of the account there."""
    parts = {"AccountName": ACCOUNT, "BlobEndpoint": url, **settings}
    text = ";".join(f"{name}={value}" for name, value in parts.items())
    monkeypatch.setenv(CONNECTION, text)


def unchecked(uri: str) -> Reference:
    return Reference(uri=uri, token=uri)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 1), (5, 10), (255_999, 256_000), (100, None), (9, 999_999)]
)
def test_ranges(
    container: Callable[..., Container], references: References, start: int, stop: int | None
) -> None:
    reference = container().put(ODD_NAME, ONE)
    assert read(references, reference, start, stop) == ONE[start:stop]


def test_what_was_stored_compressed_comes_as_it_was_stored(
    container: Callable[..., Container], references: References
) -> None:
    content = gzip.compress(ONE)
    reference = container().put("x.gz", content, encoding="gzip")
    assert read(references, reference) == content
    assert read(references, reference, 3, 9) == content[3:9]


def test_a_blob_that_was_replaced_is_not_given(
    container: Callable[..., Container], references: References
) -> None:
    plain = container()
    reference = plain.put("key", ONE)
    plain.put("key", TWO)
    for start, stop in [(0, None), (5, 10)]:
        with pytest.raises(ReferenceChanged, match="log the artifact again") as caught:
            read(references, reference, start, stop)
        assert not isinstance(caught.value, ReferenceMissing)
        assert reference.uri in str(caught.value)
    assert read(references, unchecked(reference.uri)) == TWO


def test_what_is_gone_is_missing(
    container: Callable[..., Container], references: References
) -> None:
    plain = container()
    reference = plain.put("key", ONE)
    plain.delete("key")
    other = unchecked(f"https://{ACCOUNT}.blob.core.windows.net/no-such-container/key")
    for one in (reference, unchecked(reference.uri), other):
        with pytest.raises(ReferenceMissing, match="is gone"):
            read(references, one)


def test_a_shared_signature(
    server: str,
    container: Callable[..., Container],
    references: References,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = container().put("key", ONE)
    signature = blob_storage.generate_account_sas(
        ACCOUNT,
        KEY,
        resource_types="o",
        permission="r",
        expiry=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600)),
    )
    point_to(server, monkeypatch, SharedAccessSignature=signature)
    assert read(references, reference, 5, 10) == ONE[5:10]
    point_to(server, monkeypatch, SharedAccessSignature=signature.replace("sig=", "sig=A"))
    with pytest.raises(AccessDenied, match="role Storage Blob Data Reader") as caught:
        read(references, reference)
    assert "sig=" not in str(caught.value)


def test_public_blobs_need_no_credentials(
    server: str,
    container: Callable[..., Container],
    references: References,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = container(public_access="blob").put("key", ONE)
    point_to(server, monkeypatch)
    assert read(references, reference, 5, 10) == ONE[5:10]


def test_private_blobs_do(
    server: str,
    container: Callable[..., Container],
    references: References,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = container().put("key", ONE)
    point_to(server, monkeypatch)
    with pytest.raises(AccessDenied, match="not public, and no Azure credentials.*az login"):
        read(references, reference)


def test_many_threads_at_once(container: Callable[..., Container], references: References) -> None:
    reference = container().put("key", ONE)
    ranges = [(start, start + 5000) for start in range(0, 250_000, 5000)]
    with ThreadPoolExecutor(48) as pool:
        found = list(pool.map(lambda one: read(references, reference, *one, timeout_s=100), ranges))
    assert found == [ONE[start:stop] for start, stop in ranges]


def test_a_missing_extra_is_named(
    home: Path, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ReferenceUnsupported, match=r"pip install 'wbfs\[azure\]'"):
        read(references, unchecked("https://one.blob.core.windows.net/container/blob"))


def test_an_offline_mount_asks_nobody(home: Path) -> None:
    reference = unchecked("https://one.blob.core.windows.net/container/blob")
    with pytest.raises(Offline):
        read(References(Transport(offline=True)), reference)


@pytest.mark.parametrize(
    "path", ["", "blob", "container/", "container//blob", "c/../d/blob", "C:80/blob", "c/\udc80"]
)
def test_names_that_can_not_be_asked_for(home: Path, path: str) -> None:
    transport = NoNetwork()
    with pytest.raises((ReferenceUnsupported, ReferenceIsFolder)):
        read(References(transport), unchecked(f"https://one.blob.core.windows.net/{path}"))
    assert not transport.urls


@pytest.mark.parametrize(
    "uri",
    [
        "https://one.blob.core.windows.net.evil.example/container/blob",
        "https://evil.example/one.blob.core.windows.net/container/blob",
        "https://user@one.blob.core.windows.net/container/blob",
        "https://one.blob.core.windows.net:444/container/blob",
        "http://one.blob.core.windows.net/container/blob",
    ],
)
def test_who_is_not_azure(uri: str) -> None:
    assert isinstance(References(NoNetwork()).for_uri(uri), HttpReferences)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "https://one.z9.blob.core.windows.net/c/a%20%25/b"),
        (
            {"AZURE_STORAGE_ACCOUNT": "other", "AZURE_STORAGE_SAS_TOKEN": "?sig=x"},
            "https://one.z9.blob.core.windows.net/c/a%20%25/b",
        ),
        (
            {"AZURE_STORAGE_ACCOUNT": "one", "AZURE_STORAGE_SAS_TOKEN": "?sig=x"},
            "https://one.z9.blob.core.windows.net/c/a%20%25/b?sig=x",
        ),
        (
            {CONNECTION: "AccountName=one;AccountKey=a2V5;EndpointSuffix=core.windows.net"},
            "https://one.z9.blob.core.windows.net/c/a%20%25/b?se=",
        ),
        (
            {CONNECTION: "AccountName=other;AccountKey=a2V5;BlobEndpoint=http://other"},
            "https://one.z9.blob.core.windows.net/c/a%20%25/b",
        ),
    ],
)
def test_where_a_blob_is_asked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], url: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    transport = NoNetwork()
    with pytest.raises(RemoteError):
        read(References(transport), unchecked("https://One.z9.blob.core.windows.net/c/a %/b"))
    assert transport.urls[0].startswith(url)
    assert ("?" in transport.urls[0]) == ("?" in url)


def test_a_key_that_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "one")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "abcde")
    with pytest.raises(AccessDenied, match="no base64") as caught:
        read(References(NoNetwork()), unchecked("https://one.blob.core.windows.net/c/b"))
    assert "abcde" not in str(caught.value)


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """Return a scripted store in Azure's place, with no key or signature."""
    with scripted_store() as running:
        point_to(running.url, monkeypatch)
        yield running


REFERENCE = Reference(uri=f"https://{ACCOUNT}.blob.core.windows.net/c/blob", token="0x1")


def test_a_machine_s_identity(
    store: Scripted,
    references: References,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    def answer(asked: Asked) -> Any:
        if asked.path.startswith("/identity"):
            token = {"access_token": "a-token", "expires_on": time.time() + 3600}
            document = token | {"resource": "https://storage.azure.com", "token_type": "Bearer"}
            return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()
        if asked.headers.get("authorization") == "Bearer a-token":
            return 200, {"ETag": '"0x1"'}, ONE
        return 401, {"x-ms-error-code": "NoAuthenticationInformation"}, b""

    store.answer = answer
    # As on the machines of Azure's App Service.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{store.url}/identity")
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: read(references, REFERENCE), range(16)))
    assert found == [ONE] * 16
    assert len([asked for asked in store.asked if asked.path.startswith("/identity")]) == 1
    assert store.asked[-1].headers["x-ms-version"] >= "2019-12-12"
    assert store.asked[-1].headers["if-match"] == '"0x1"'
    store.answer = lambda asked: (412, {"x-ms-error-code": "ConditionNotMet"}, b"")
    with pytest.raises(ReferenceChanged) as caught:
        read(references, REFERENCE)
    assert "a-token" not in str(caught.value) + caplog.text


VERSIONS = """<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ServiceEndpoint="http://one/" ContainerName="c"><Blobs>{}</Blobs>
<NextMarker /></EnumerationResults>"""
VERSION = """<Blob><Name>{}</Name><VersionId>{}</VersionId><Properties><Etag>{}</Etag>
<Content-Length>5</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>"""


@pytest.mark.parametrize("sole_name", ["blob", "blob and more"])
def test_a_version_that_was_not_recorded_is_found_by_its_etag(
    store: Scripted, references: References, sole_name: str
) -> None:
    blobs = [("blob", "2024-01-01", "0x0"), (sole_name, "2024-01-02", "0x1")]

    def answer(asked: Asked) -> Any:
        if "comp=list" in asked.path:
            body = VERSIONS.format("".join(VERSION.format(*blob) for blob in blobs))
            return 200, {"Content-Type": "application/xml"}, body.encode()
        if "versionid=2024-01-02" in asked.path:
            return 200, {"ETag": '"0x1"'}, ONE
        return 412, {"x-ms-error-code": "ConditionNotMet"}, b""

    store.answer = answer
    if sole_name == "blob":
        assert read(references, REFERENCE) == ONE
        assert read(references, REFERENCE) == ONE
        assert len(store.asked) == 4
    else:
        with pytest.raises(ReferenceChanged, match="no longer the object that was logged"):
            read(references, REFERENCE)


def test_versions_that_may_not_be_listed(store: Scripted, references: References) -> None:
    store.answer = lambda asked: (403 if "comp=list" in asked.path else 412, {}, b"")
    with pytest.raises(ReferenceChanged):
        read(references, REFERENCE)


def test_the_recorded_version_is_asked_for(store: Scripted, references: References) -> None:
    store.answer = lambda asked: (200, {"ETag": '"0x1"'}, ONE)
    version = "2024-01-02T03:04:05.6789012Z"
    reference = Reference(uri=REFERENCE.uri, token="0x1", version_id=version)
    assert read(references, reference) == ONE
    assert store.asked[0].path == "/c/blob?versionid=2024-01-02T03%3A04%3A05.6789012Z"
    store.answer = lambda asked: (404, {"x-ms-error-code": "BlobNotFound"}, b"")
    with pytest.raises(ReferenceMissing, match=f"version '{version}'.*404 BlobNotFound"):
        read(references, reference)

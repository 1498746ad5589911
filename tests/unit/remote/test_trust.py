"""Whose certificates are believed: by which variable, and what is said where one is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import trustme
from certificates import BAD, Authority
from scripted import Server, reply, scripted_servers

from wbfs.model.errors import RemoteError, UsageError
from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport

INSTEAD = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
BESIDE = ("SSL_CERT_FILE", "SSL_CERT_DIR")
CONTENT = b"content"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    with scripted_servers(authority.context()) as start:
        server = start()
        server.answers = [reply(200, CONTENT)]
        yield server


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*INSTEAD, *BESIDE):
        monkeypatch.delenv(name, raising=False)


def read(url: str, peer: Peer = Peer.WANDB_STORE, transport: Transport | None = None) -> bytes:
    own = transport or Transport()
    try:
        location = Location(url=url, peer=peer)
        with open_stream(own, location, deadline=Deadline.after(50)) as stream:
            return b"".join(map(bytes, stream.pieces))
    finally:
        # Also so that the next one is another connection.
        own.close()


@pytest.mark.parametrize("peer", [Peer.WANDB_STORE, Peer.OBJECT_STORE, Peer.REFERENCE])
@pytest.mark.parametrize(
    ("name", "form"),
    [*product((*INSTEAD, *BESIDE), ("file", "folder")), ("SSL_CERT_DIR", "folders")],
)
def test_each_variable_is_honoured(
    server: Server,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    form: str,
    peer: Peer,
) -> None:
    folder = tmp_path / "not hashed"
    folder.mkdir()
    (folder / "company.crt").write_bytes(authority.ca_file.read_bytes())
    (folder / "README").write_text("no certificate")
    (folder / "gone").symlink_to("/nowhere/at/all")
    (folder / "below").mkdir()
    other = Authority(tmp_path / "other").ca_file.parent
    named = {"file": authority.ca_file, "folder": folder, "folders": f"{other}:{folder}:"}[form]
    monkeypatch.setenv(name, str(named))
    assert read(server.url, peer) == CONTENT


@pytest.mark.parametrize("name", [*INSTEAD, *BESIDE])
def test_what_becomes_of_the_public_cas(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(authority.ca_file))
    if name == "CURL_CA_BUNDLE":
        monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    believed = Transport()._trust.context(verify=True).cert_store_stats()["x509_ca"]
    assert believed == 1 if name in INSTEAD else believed > 50


def test_bundles_are_read_once_and_again_where_they_changed(
    server: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Authority(tmp_path / "other").ca_file.read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    transport = Transport()
    for _ in range(2):
        with pytest.raises(RemoteError, match="can't trust"):
            read(server.url, transport=transport)
    bundle.write_bytes(authority.ca_file.read_bytes() + b"\n")
    with pytest.raises(RemoteError, match="can't trust"):
        read(server.url, transport=transport)
    assert read(server.url, transport=transport) == CONTENT
    bundle.unlink()
    assert read(server.url, transport=transport) == CONTENT


@pytest.mark.parametrize("peer", [Peer.WANDB_STORE, Peer.OBJECT_STORE, Peer.REFERENCE])
@pytest.mark.parametrize("what", list(BAD))
def test_what_is_wrong_with_a_certificate_is_said_at_once(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, peer: Peer
) -> None:
    words, make = BAD[what]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    with scripted_servers(make(authority, tmp_path)) as start:
        server = start()
        url = server.url.replace("http://", "https://") + "/?X-Signature=verysecret"
        with pytest.raises(RemoteError, match=words) as caught:
            read(url, peer)
        # No attempt goes better.
        assert server.connections == 1
    assert "verysecret" not in str(caught.value)
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*INSTEAD, *BESIDE])
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "there is no CA bundle"),
        ("empty", "is no CA bundle"),
        ("garbage", "is no CA bundle"),
        ("broken", "is no CA bundle"),
        ("key only", "is no CA bundle"),
        ("unreadable", "can't read the CA bundle"),
        ("empty folder", "is no CA bundle"),
        ("pipe", "it is no regular file"),
        ("folder of a pipe", "is no CA bundle"),
    ],
)
def test_a_bundle_that_is_of_no_use_is_named(
    server: Server,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    what: str,
    words: str,
) -> None:
    path = tmp_path / "bundle"
    contents = {
        "empty": b"",
        "garbage": b"\x00\xffgarbage",
        "broken": authority.ca_file.read_bytes()[:300],
        "key only": trustme.CA().private_key_pem.bytes(),
    }
    if what in contents:
        path.write_bytes(contents[what])
    elif what == "pipe":
        os.mkfifo(path)
    elif "folder" in what:
        path.mkdir()
        if "pipe" in what:
            os.mkfifo(path / "pipe")
    elif what == "unreadable":
        # Whoever runs the tests, even root, gets an error of it.
        path = Path("/proc/self/mem")
    monkeypatch.setenv(name, str(path))
    with pytest.raises(UsageError, match=words) as caught:
        read(server.url)
    assert str(path) in str(caught.value)
    assert f"correct {name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_proxy_that_speaks_tls_is_believed_by_the_same(
    server: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("no_proxy", "")
    proxies = {"http": server.url}
    other = Authority(tmp_path / "other")
    for ca_file, is_believed in ((other.ca_file, False), (authority.ca_file, True)):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
        transport = Transport(proxies=proxies)
        if is_believed:
            assert read("http://host.invalid/", transport=transport) == CONTENT
        else:
            with pytest.raises(RemoteError, match=f"can't trust 127.0.0.1:{server.port}: .* CA"):
                read("http://host.invalid/", transport=transport)
    assert server.connections == 2

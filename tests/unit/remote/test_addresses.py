"""Where references may lead: judged by the address that is connected to, at each step."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from scripted import Server, reply, scripted_servers
from urllib3.connection import HTTPConnection

from wbfs.model.entries import Reference
from wbfs.model.errors import AccessDenied, ReferenceChanged, RemoteError
from wbfs.remote.http.addresses import SILENT_ADDRESSES, _connect, refusal
from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References

CONTENT = b"the bytes"
NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
]
PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:7f00:1::",
    "0.0.0.0",
    "::",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "fc00::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"]


@pytest.fixture
def server() -> Iterator[Server]:
    with scripted_servers() as start:
        yield start()


@pytest.fixture
def make() -> Iterator[Callable[..., Transport]]:
    """Return what makes transports."""
    made: list[Transport] = []

    def transport(**settings: Any) -> Transport:
        made.append(Transport(**settings))
        return made[-1]

    yield transport
    for one in made:
        one.close()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that were connected to; none is where a test's servers aren't."""
    addresses: list[str] = []
    connect = urllib3.util.connection.create_connection

    def note(place: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        addresses.append(place[0])
        if place[0] not in ("127.0.0.1", "localhost"):
            raise ConnectionRefusedError(111, "Connection refused")
        return connect(place, *args, **kwargs)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", note)
    return addresses


def read(transport: Transport, url: str, peer: Peer = Peer.REFERENCE) -> bytes:
    location = Location(url=url, peer=peer)
    with open_stream(transport, location, deadline=Deadline.after(10)) as stream:
        return b"".join(map(bytes, stream.pieces))


def test_addresses_are_judged_by_what_they_mean() -> None:
    for address in NEVER:
        assert "cloud's metadata" in refusal(address, private_allowed=True), address
        assert refusal(address, private_allowed=False), address
    for address in PRIVATE:
        assert "--allow-private-references" in refusal(address, private_allowed=False), address
        assert refusal(address, private_allowed=True) == "", address
    for address in PUBLIC:
        assert refusal(address, private_allowed=False) == "", address


@given(st.ip_addresses())
def test_every_address_is_judged(address: object) -> None:
    if refusal(str(address), private_allowed=True):
        assert refusal(str(address), private_allowed=False)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "0x7f.1", "127.1", "0", "[::1]"],
)
def test_private_addresses_are_not_connected_to(
    server: Server, make: Callable[..., Transport], connected: list[str], host: str
) -> None:
    server.answers = [reply(200, CONTENT)]
    with pytest.raises(AccessDenied, match="--allow-private-references"):
        read(make(private_references=False), f"http://{host}:{server.port}/")
    with pytest.raises(AccessDenied, match="--allow-private-references"):
        read(make(private_references=False), f"https://{host}:{server.port}/")
    assert not connected
    assert not server.seen


def test_what_the_user_names_is_asked_wherever_it_is(
    server: Server, make: Callable[..., Transport]
) -> None:
    server.answers = [reply(200, CONTENT)]
    transport = make(server=server.url, private_references=False)
    for peer in (Peer.WANDB_STORE, Peer.OBJECT_STORE):
        assert read(transport, server.url, peer) == CONTENT
    assert read(make(), server.url) == CONTENT
    # A store of W&B's may lead on within the private network that it is in.
    server.answers = [
        reply(302, Location=f"http://localhost:{server.port}/"),
        reply(200, CONTENT),
    ]
    assert read(transport, server.url, Peer.WANDB_STORE) == CONTENT


@pytest.mark.parametrize("peer", [Peer.REFERENCE, Peer.OBJECT_STORE])
@pytest.mark.parametrize("target", ["169.254.169.254", "[fe80::1]", "[::ffff:a9fe:a9fe]"])
def test_no_redirect_leads_to_a_cloud_s_metadata(
    server: Server,
    make: Callable[..., Transport],
    connected: list[str],
    peer: Peer,
    target: str,
) -> None:
    server.answers = [reply(302, Location=f"http://{target}/latest/meta-data?verysecret")]
    with pytest.raises(AccessDenied, match="cloud's metadata") as caught:
        read(make(), server.url, peer)
    assert "verysecret" not in str(caught.value)
    assert set(connected) == {"127.0.0.1"}


def test_a_redirect_of_the_user_s_store_is_not_the_user_s_word(
    server: Server, make: Callable[..., Transport]
) -> None:
    server.answers = [reply(302, Location=f"http://localhost:{server.port}/"), reply(200, CONTENT)]
    with pytest.raises(AccessDenied, match="--allow-private-references"):
        read(make(private_references=False), server.url, Peer.OBJECT_STORE)
    assert len(server.seen) == 1


def test_a_name_is_looked_up_once_and_that_address_is_connected_to(
    server: Server,
    make: Callable[..., Transport],
    connected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up = socket.getaddrinfo
    answers: list[list[str]] = []

    def rebinding(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        if host != "rebinding.invalid":
            return list(look_up(host, *args, **kwargs))
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [found for one in addresses for found in look_up(one, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    server.answers = [reply(200, CONTENT)]
    url = f"http://rebinding.invalid:{server.port}/"
    # At the next attempt it is another one, and is judged anew.
    answers[:] = [["8.8.8.8"], ["127.0.0.1"]]
    with pytest.raises((AccessDenied, RemoteError)):
        read(make(private_references=False), url)
    assert set(connected) == {"8.8.8.8"}
    # Of several addresses those are connected to that may be.
    answers[:] = [["127.0.0.1", "8.8.8.8", "10.0.0.1"]]
    connected.clear()
    with pytest.raises(RemoteError, match="Connection refused"):
        read(make(private_references=False), url)
    assert set(connected) == {"8.8.8.8"}
    answers[:] = [["169.254.169.254", "127.0.0.1"]]
    assert read(make(), url) == CONTENT
    assert not server.seen[0][1].keys() & {"Authorization", "Cookie"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "a.localhost."]
)
def test_through_a_proxy_what_the_url_says_is_judged(
    server: Server, make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    server.answers = [reply(200, CONTENT)]
    transport = make(private_references=False)
    with pytest.raises(AccessDenied, match="--allow-private-references"):
        read(transport, f"http://{host}:1/")
    for metadata in ("169.254.169.254", "metadata.google.internal", "metadata.goog"):
        with pytest.raises(AccessDenied, match="cloud's metadata"):
            read(make(), f"http://{metadata}/")
    assert not server.seen
    # The proxy itself is of the user's choice, and may be anywhere.
    assert read(transport, "http://public.invalid/") == CONTENT


def test_references_and_stores_do_not_go_through_the_proxies_of_wandb(
    make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_servers() as start:
        own, environment = start(), start()
        own.answers, environment.answers = [reply(200, b"ours")], [reply(200, b"theirs")]
        monkeypatch.setenv("http_proxy", environment.url)
        monkeypatch.setenv("no_proxy", "")
        transport = make(proxies={"http": own.url})
        assert read(transport, "http://host.invalid/", Peer.WANDB_STORE) == b"ours"
        for peer in (Peer.OBJECT_STORE, Peer.REFERENCE):
            assert read(transport, "http://host.invalid/", peer) == b"theirs"


def test_that_certificates_are_not_checked_is_for_wandb_alone(
    make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    verified: dict[Peer, object] = {}
    for peer in Peer:
        way = make(verify=False)._ways.to("https://host/", peer, None)
        verified[peer] = way.options["verify"]
    assert verified == {
        Peer.WANDB: False,
        Peer.WANDB_STORE: False,
        Peer.OBJECT_STORE: True,
        Peer.REFERENCE: True,
        Peer.GATEWAY: True,
    }


def open_file(path: Path, *, allowed: bool) -> bytes:
    handler = References(Transport(), files_allowed=allowed).for_uri(path.as_uri())
    reference = Reference(uri=path.as_uri(), token="x")
    with handler.open(reference, start=0, stop=None, deadline=Deadline.after(50)) as stream:
        return b"".join(map(bytes, stream.pieces))


def test_files_are_read_where_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert open_file(path, allowed=True) == CONTENT
    with pytest.raises(AccessDenied, match="--allow-file-references"):
        open_file(path, allowed=False)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert open_file(link, allowed=True) == CONTENT


def test_what_is_no_file_is_neither_opened_nor_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    really_open = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args: (opened.append(path), really_open(path, *args))[1]
    )
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "fifo", tmp_path / "socket", Path("/dev/tty"), tmp_path):
            with pytest.raises(ReferenceChanged, match="no regular file"):
                open_file(path, allowed=True)
    assert not opened


def test_no_number_of_silent_addresses_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, int]] = []

    def resolve(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (f"203.0.113.{number}", port)) for number in range(200)]

    def connect(place: tuple[str, int], timeout: float, **_: object) -> None:
        tried.append(place)
        time.sleep(timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)
    connection = HTTPConnection("many.invalid", timeout=0.05)
    with pytest.raises(urllib3.exceptions.ConnectTimeoutError):
        _connect(connection, private_allowed=True)
    assert 1 <= len(tried) <= SILENT_ADDRESSES

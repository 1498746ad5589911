"""What leaves this machine: what is ours goes to the server that it is for, and along no redirect.

The servers are real ones, which keep what they got.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Server, reply, scripted_servers

from wbfs.model.entries import Reference
from wbfs.model.errors import ReferenceChanged, RemoteError, RemoteProtocolError, WbfsError
from wbfs.remote.api.graphql import GraphQL
from wbfs.remote.credentials import load_credentials
from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.failures import without_secrets
from wbfs.remote.http.redirects import Hop, Peer, next_hop
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References

CONTENT = b"the bytes"
SECRETS = {
    "Authorization": "Bearer verysecret",
    "X-WANDB-USERNAME": "verysecret",
    "X-Gateway": "verysecret",
    "Cookie": "verysecret",
    "x-ms-version": "verysecret",
}
Servers = Callable[[], Server]
TransportTo = Callable[[Server], Transport]
STATUSES = [301, 302, 303, 307, 308]


@pytest.fixture
def servers() -> Iterator[Callable[[], Server]]:
    """Return what starts servers."""
    with scripted_servers() as start:
        yield start


@pytest.fixture
def transport_to() -> Iterator[Callable[[Server], Transport]]:
    """Return what makes transports whose W&B is a server, with all that a user can have set."""
    with ExitStack() as stack:

        def make(server: Server) -> Transport:
            transport = Transport(server=server.url, extra_headers={"X-Gateway": "verysecret"})
            stack.callback(transport.close)
            return transport

        yield make


def graphql(server: Server, transport: Transport, directory: Path, **environ: str) -> GraphQL:
    environ = {
        "HOME": str(directory),
        "WANDB_BASE_URL": server.url,
        "WANDB_USERNAME": "verysecret",
        "WANDB_USER_EMAIL": "verysecret",
        **environ,
    }
    credentials = load_credentials(environ, directory)
    return GraphQL(transport=transport, credentials=credentials)


def read(transport: Transport, url: str, peer: Peer, headers: Mapping[str, str]) -> bytes:
    location = Location(url=url, peer=peer, headers=headers)
    with open_stream(transport, location, start=1, deadline=Deadline.after(50)) as stream:
        return b"".join(map(bytes, stream.pieces))


def part() -> Callable[..., None]:
    total = len(CONTENT)
    return reply(206, CONTENT[1:], Content_Range=f"bytes 1-{total - 1}/{total}")


def told(server: Server) -> str:
    """Return all that a server got, but for the URLs, which were its own words."""
    return repr([headers for _, headers in server.seen]) + repr(server.bodies)


def elsewhere(server: Server, other: Server) -> list[str]:
    """Return URLs of other origins than the first server's: another port, and another name."""
    return [f"{other.url}/moved", f"http://localhost:{server.port}/moved"]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("login", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_the_api_leads_to_no_other_server(
    servers: Servers, transport_to: TransportTo, tmp_path: Path, status: int, which: int, login: str
) -> None:
    server, other = servers(), servers()
    target = elsewhere(server, other)[which]
    server.answers = [reply(status, Location=f"{target}?token=verysecret")]
    other.answers = [reply(200, b'{"data": {"a": 1}}')]
    (tmp_path / "token").write_text("verysecret.b.c")
    value = {"WANDB_API_KEY": "k" * 40, "WANDB_IDENTITY_TOKEN_FILE": str(tmp_path / "token")}
    api = graphql(server, transport_to(server), tmp_path, **{login: value[login]})
    with pytest.raises(RemoteProtocolError) as caught:
        api.execute("{ verysecret }", {"a": "verysecret"}, deadline=Deadline.after(50))
    named = target.removesuffix("/moved")
    assert f"set WANDB_BASE_URL to {named}" in str(caught.value)
    assert server.url.removeprefix("http://") in str(caught.value)
    assert "verysecret" not in str(caught.value)
    assert (len(server.seen), len(other.seen)) == (1, 0)


def test_the_api_may_lead_on_within_its_server(
    servers: Servers, transport_to: TransportTo, tmp_path: Path
) -> None:
    server = servers()
    server.answers = [reply(308, b"moved", Location="/graphql/"), reply(200, b'{"data": {"a": 1}}')]
    api = graphql(server, transport_to(server), tmp_path, WANDB_API_KEY="k" * 40)
    assert api.execute("{ a }", {}, deadline=Deadline.after(50)) == {"a": 1}
    assert [path for path, _ in server.seen] == ["/graphql", "/graphql/"]
    assert server.bodies[0] == server.bodies[1]
    assert server.seen[0][1] == server.seen[1][1]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_question_to_the_api_does_not_become_another_one(
    servers: Servers, transport_to: TransportTo, tmp_path: Path, status: int
) -> None:
    server = servers()
    server.answers = [reply(status, Location="/login"), reply(200, b'{"data": {"a": 1}}')]
    api = graphql(server, transport_to(server), tmp_path, WANDB_API_KEY="k" * 40)
    with pytest.raises(RemoteProtocolError, match="login page"):
        api.execute("{ a }", {}, deadline=Deadline.after(50))
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("peer", [Peer.WANDB_STORE, Peer.OBJECT_STORE, Peer.REFERENCE])
def test_bytes_come_along_redirects_and_nothing_of_ours_goes(
    servers: Servers, transport_to: TransportTo, status: int, which: int, peer: Peer
) -> None:
    server, other = servers(), servers()
    target = elsewhere(server, other)[which]
    # The chain leads back to the first server: what was left behind stays so.
    server.answers = [reply(status, b"x" * 100, Location=target), part()]
    if which == 0:
        other.answers = [reply(status, Location=f"{server.url}/back")]
    url = f"{server.url}/file?X-Signature=s"
    assert read(transport_to(server), url, peer, SECRETS) == CONTENT[1:]
    assert len(server.seen) == 2
    first, *later = [headers for _, headers in server.seen + other.seen]
    assert first.items() >= SECRETS.items() | {"Range": "bytes=1-"}.items()
    for headers in later:
        assert headers["Range"] == "bytes=1-"
        assert "verysecret" not in repr(headers)
        assert "Referer" not in headers


def test_the_users_headers_go_to_wandb_alone(servers: Servers, transport_to: TransportTo) -> None:
    wandb, other = servers(), servers()
    wandb.answers = other.answers = [part()]
    transport = transport_to(wandb)
    for peer in (Peer.WANDB_STORE, Peer.OBJECT_STORE, Peer.REFERENCE):
        for server in (wandb, other):
            read(transport, f"{server.url}/file", peer, {})
    assert ["X-Gateway" in headers for _, headers in wandb.seen] == [True, False, False]
    assert "verysecret" not in told(other)


def test_netrc_is_no_business_of_any_url(
    servers: Servers, transport_to: TransportTo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    names = ("127.0.0.1", "localhost")
    netrc.write_text("".join(f"machine {one} login user password verysecret\n" for one in names))
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server, other = servers(), servers()
    for peer in (Peer.WANDB_STORE, Peer.OBJECT_STORE, Peer.REFERENCE):
        server.answers = [reply(302, Location=elsewhere(server, other)[1]), part()]
        assert read(transport_to(other), server.url, peer, {}) == CONTENT[1:]
    assert len(server.seen) == 6
    assert not any("Authorization" in headers for _, headers in server.seen)


def test_a_chain_without_end_and_one_that_is_slow_end(
    servers: Servers, transport_to: TransportTo
) -> None:
    server = servers()
    server.answers = [reply(302, Location="/again")]
    with pytest.raises(RemoteError, match="without end"):
        read(transport_to(server), server.url, Peer.REFERENCE, {})
    assert len(server.seen) == 11
    # A body that belongs to a redirect isn't waited for, however long it is said to be.
    server.answers = [reply(302, b"x" * 1_000_000, Location="/file"), part()]
    assert read(transport_to(server), server.url, Peer.REFERENCE, {}) == CONTENT[1:]


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "http://[::1",
        "https://h:99999/",
        "gopher:x",
    ],
)
def test_a_redirect_to_what_is_no_web_server_is_refused(
    servers: Servers, transport_to: TransportTo, location: str
) -> None:
    server = servers()
    server.answers = [reply(302, Location=location), part()]
    with pytest.raises(WbfsError):
        read(transport_to(server), f"{server.url}/a?verysecret", Peer.REFERENCE, {})
    assert len(server.seen) == 1


def hop(url: str) -> Hop:
    return Hop(url=url, headers=dict(SECRETS), guarded=False)


@pytest.mark.parametrize("peer", [Peer.WANDB, Peer.WANDB_STORE, Peer.OBJECT_STORE])
def test_what_is_secret_leaves_no_encryption(peer: Peer) -> None:
    with pytest.raises(RemoteProtocolError, match="http://host") as caught:
        next_hop(
            peer,
            hop("https://host/a?verysecret"),
            method="GET",
            status=302,
            location="http://user:verysecret@host/a?verysecret",
        )
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://host/b", True),
        ("https://HOST:443/b", True),
        ("https://host./b", True),
        ("/b", True),
        ("?b", True),
        ("//host/b", True),
        ("https://host:444/b", False),
        ("https://host.other/b", False),
        ("//other/b", False),
        ("https://host@other/b", False),
        ("https://other/https://host/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, same: bool) -> None:
    after = next_hop(
        Peer.OBJECT_STORE, hop("https://host/a"), method="GET", status=302, location=url
    )
    assert after is not None
    assert (after.headers == SECRETS) == same
    assert bool(after.headers) == same
    assert after.guarded != same


URLS = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{}://{}{}{}".format,
        st.sampled_from(["http", "https", "HTTP", "s3", ""]),
        st.sampled_from(["", "user:verysecret@", "[", "::1]"]),
        st.one_of(st.text(max_size=20), st.just("127.0.0.1:1"), st.just("a" * 70 + ".invalid")),
        st.sampled_from(["", "/a?verysecret", "/\udcff?verysecret", ":99999999/", "#verysecret"]),
    ),
)


@pytest.fixture(scope="module")
def astray() -> Iterator[Transport]:
    """Return a transport whose proxies are not there."""
    transport = Transport(proxies={"http": "http://127.0.0.1:1", "https": "http://127.0.0.1:1"})
    yield transport
    transport.close()


@settings(deadline=None)
@given(url=URLS, peer=st.sampled_from([Peer.WANDB_STORE, Peer.OBJECT_STORE, Peer.REFERENCE]))
def test_hostile_urls_end_in_our_errors_and_tell_no_secret(
    astray: Transport, url: str, peer: Peer
) -> None:
    with (
        pytest.raises(WbfsError) as caught,
        open_stream(astray, Location(url=url, peer=peer), deadline=Deadline.after(0.02)),
    ):
        pass
    assert "verysecret" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(
    location=st.text(st.characters(max_codepoint=255), max_size=60),
    peer=st.sampled_from(list(Peer)),
    status=st.sampled_from(STATUSES),
)
def test_hostile_redirects_end_in_our_errors(location: str, peer: Peer, status: int) -> None:
    method = "POST" if peer is Peer.WANDB else "GET"
    try:
        after = next_hop(
            peer, hop("https://host/a"), method=method, status=status, location=location
        )
    except RemoteProtocolError:
        return
    assert after is None or after.url.startswith("https://")


@pytest.mark.parametrize("header", ["a\r\nb: verysecret", "verysecret€", "verysecret\0"])
@pytest.mark.parametrize("proxy", ["http://user:verysecret@[", "nowhere://verysecret", ""])
def test_hostile_settings_end_in_our_errors_and_tell_no_secret(header: str, proxy: str) -> None:
    url = "http://127.0.0.1:1"
    transport = Transport(
        server=url, extra_headers={"X-Gateway": header}, proxies={"http": proxy} if proxy else {}
    )
    with (
        pytest.raises(WbfsError) as caught,
        open_stream(transport, Location(url=url), deadline=Deadline.after(0.1)),
    ):
        pass
    assert "verysecret" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(
    before=st.sampled_from(["", "HTTPSConnectionPool(host='h'): ", "can't reach "]),
    user=st.sampled_from(["", "verysecret@", "user:verysecret@", "a@verysecret:b@"]),
    query=st.sampled_from(["", "?verysecret", "?a=verysecret&b=verysecret", "?sig=very/secret"]),
    after=st.sampled_from(["", " (Caused by x)", "' is wrong"]),
)
def test_what_may_be_told_of_a_url(before: str, user: str, query: str, after: str) -> None:
    told = without_secrets(f"{before}https://{user}host.example/path{query}{after}")
    assert told == f"{before}https://host.example/path{after}"
    assert without_secrets(f"url: /path{query}{after}").count("verysecret") == (
        query == "?verysecret"
    )


def test_what_is_said_of_a_reference_tells_no_secret(
    servers: Servers, transport_to: TransportTo
) -> None:
    server = servers()
    server.answers = [reply(200, CONTENT, ETag='"new"')]
    url = server.url.replace("://", "://user:verysecret@") + "/file?sig=verysecret"
    handler = References(transport_to(server)).for_uri(url)
    # As the SDK records it where the URL it was given had led to this one, without an ETag.
    reference = Reference(uri=url, token=f"{url}&again")
    with (
        pytest.raises(ReferenceChanged) as caught,
        handler.open(reference, start=0, stop=None, deadline=Deadline.after(5)),
    ):
        pass
    assert "verysecret" not in str(caught.value)
    for reference in (
        Reference(uri=f"s3://user:verysecret@bucket/{'../' * 2}?verysecret", token="t"),
        Reference(uri="gs://user:verysecret@bucket/..?verysecret", token="t"),
    ):
        handler = References(transport_to(server)).for_uri(reference.uri)
        with (
            pytest.raises(WbfsError) as refused,
            handler.open(reference, start=0, stop=None, deadline=Deadline.after(5)),
        ):
            pass
        assert "verysecret" not in str(refused.value)

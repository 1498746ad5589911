"""Where a manifest's URLs may lead: never to a cloud's metadata, and not everywhere in private.

A manifest is foreign input, and the daemon asks from where it runs: what answers on loopback, in a
private network or at a link-local address was not meant for whoever wrote the manifest, nor for
the other users of a mount. What is judged is the very address that is connected to, not a name
that may resolve to another one a moment later. Through a proxy it is the proxy that resolves
names: then only addresses that stand in the URL, and names that always mean this machine or a
cloud's metadata, can be judged.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from typing import Any

import requests
import urllib3
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection

from wbfs.model.errors import AccessDenied
from wbfs.remote.http.bodies import DirectAdapter
from wbfs.remote.http.trust import Trust

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PRIVATE_OPTION = "--allow-private-references"
SILENT_ADDRESSES = 2
"""Addresses of a name that may be silent until the time-out: whoever wrote the manifest may say how
many it has."""

# What answers there, answers with the machine's own credentials: of Alibaba Cloud, Oracle Cloud,
# Azure, AWS and Google Cloud. That of the others is link-local.
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
    )
)
_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.goog",
        "metadata.google.internal",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
# By it IPv6-only networks reach all of IPv4.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Networks in which an IPv4 address is in the last four bytes too.
_CARRIERS = (ipaddress.IPv6Network("64:ff9b:1::/96"), ipaddress.IPv6Network("::/96"))


def refusal(text: str, *, private_allowed: bool) -> str:
    """Return why no reference may lead to an IP address, or the empty text where one may."""
    for address in _meant(ipaddress.ip_address(text.partition("%")[0])):
        if address.is_link_local or address in _METADATA:
            return "no reference may lead to link-local addresses or to a cloud's metadata"
        if not private_allowed and _is_private(address):
            return (
                "no reference may lead to loopback and private addresses where other users read"
                f" the mount too; if they may see what answers there, mount with {PRIVATE_OPTION}"
            )
    return ""


def _meant(address: Address) -> list[Address]:
    """Return an address, and the IPv4 addresses to which packets for it may be handed on."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped or address in _NAT64:
        return [last]
    carried = [address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _CARRIERS):
        carried.append(last)
    return [address, *(one for one in carried if one is not None)]


def _is_private(address: Address) -> bool:
    is_site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    special = address.is_multicast or address.is_reserved or address.is_unspecified
    return special or is_site_local or not address.is_global


def _literal(host: str) -> str:
    """Return the address that a host is written as, in any form that resolvers take, or ""."""
    host = host.strip("[]").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    if host in _METADATA_NAMES:
        return "169.254.169.254"
    try:
        # Octal, hexadecimal, and numbers that stand for two bytes or more, too.
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        try:
            return str(ipaddress.ip_address(host.partition("%")[0]))
        except ValueError:
            return ""


class GuardedAdapter(DirectAdapter):
    """What connects to the servers of references, where it may; else raises AccessDenied."""

    def __init__(
        self, trust: Trust, *, connections: int, turn: threading.Lock, private_allowed: bool
    ) -> None:
        """Be as a `DirectAdapter` otherwise."""
        self._private_allowed = private_allowed
        super().__init__(trust, connections=connections, turn=turn)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make all connections guarded, but for those to proxies, which the user has named."""
        super().init_poolmanager(*args, **kwargs)
        guarded = _connections(private_allowed=self._private_allowed)
        self.poolmanager.pool_classes_by_scheme = self.pools(*guarded)

    def judge(self, url: str) -> None:
        """Raise AccessDenied where a URL says itself that it leads to where no reference may."""
        try:
            host = (urllib3.util.parse_url(url).host or "").lower()
        except urllib3.exceptions.LocationParseError:
            # Nobody can be asked for it.
            return
        if literal := _literal(host):
            _check(host, literal, private_allowed=self._private_allowed)

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Judge what can be judged of a request that goes through a proxy."""
        if select_proxy(request.url or "", proxies):
            self.judge(request.url or "")
        return super().get_connection_with_tls_context(request, verify, proxies, cert)


def _connections(*, private_allowed: bool) -> tuple[type[HTTPConnection], type[HTTPSConnection]]:
    """Return urllib3's connections, but for how they connect."""

    class Guarded(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, private_allowed=private_allowed)

    class GuardedTls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, private_allowed=private_allowed)

    return Guarded, GuardedTls


def _connect(connection: HTTPConnection, *, private_allowed: bool) -> socket.socket:
    """Connect to the first of a server's addresses that answers, of those that may be asked."""
    host = connection.host.strip("[]")
    try:
        found = socket.getaddrinfo(
            host,
            connection.port,
            urllib3.util.connection.allowed_gai_family(),
            socket.SOCK_STREAM,
        )
    except UnicodeError:
        raise urllib3.exceptions.LocationParseError("no host is named so") from None
    failure: OSError | None = None
    refused: AccessDenied | None = None
    assert isinstance(connection.timeout, int | float)
    latest_s = time.monotonic() + SILENT_ADDRESSES * connection.timeout
    for *_, place in found:
        address = str(place[0])
        try:
            _check(host, address, private_allowed=private_allowed)
            left_s = latest_s - time.monotonic()
            if left_s <= 0:
                break
            # An address is not looked up again.
            return urllib3.util.connection.create_connection(
                (address, connection.port),
                min(connection.timeout, left_s),
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except AccessDenied as error:
            refused = error
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise urllib3.exceptions.ConnectTimeoutError(connection, "no answer") from failure
    if failure is not None:
        raise urllib3.exceptions.NewConnectionError(connection, "no connection") from failure
    raise refused or OSError("the name has no address")


def _check(host: str, address: str, *, private_allowed: bool) -> None:
    """Raise AccessDenied where no reference may lead to the address."""
    if reason := refusal(address, private_allowed=private_allowed):
        named = host if host == address else f"{host} ({address})"
        raise AccessDenied(f"the reference leads to {named}: {reason}")

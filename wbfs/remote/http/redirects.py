"""Where an answer leads on to, and what may go along there. Pure: no request is made here.

What is ours, or the user's, goes to the server that it was meant for: past the first server only
what says which bytes are wanted.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urljoin, urlsplit

from wbfs.model.errors import RemoteProtocolError
from wbfs.remote.http.failures import host_of

_STATUSES = frozenset({301, 302, 303, 307, 308})
_WITH_BODY = frozenset({307, 308})
"""Those by which a POST stays one."""
_FOR_ALL = frozenset({"accept", "accept-encoding", "connection", "if-match", "range", "user-agent"})
_PORTS = {"http": 80, "https": 443}
# As requests quotes what a server left as it was.
_UNQUOTED = "!#$%&'()*+,/:;=?@[]~"


class Peer(enum.Enum):
    """Who is asked: from that follows what it is told, and where its answers may lead."""

    WANDB = "W&B's API"
    """Gets the key and the user's headers, by W&B's proxies, and leads to no other server."""
    WANDB_STORE = "a store of W&B's, by a signed URL"
    """Is asked by W&B's proxies, and leads anywhere. Its URL is a secret."""
    OBJECT_STORE = "an object store that the user's settings name"
    """Gets what signs in to it; leads where references may."""
    REFERENCE = "a server that a manifest names"
    """Gets nothing, and must be where references may lead."""
    GATEWAY = "a cache in front of W&B's store"
    """Gets a signed URL, past the environment's proxies, and leads nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One request of a chain; `guarded` is whether it must be where references may lead."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    guarded: bool


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port. Raises ValueError for what is no URL."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme)


def next_hop(peer: Peer, hop: Hop, *, method: str, status: int, location: str) -> Hop | None:
    """Return what to ask next, None where the answer leads nowhere.

    `location` is the header as http.client gives it. Raises RemoteProtocolError where the answer
    leads to where nothing may be asked.
    """
    if status not in _STATUSES or not location or peer is Peer.GATEWAY:
        return None
    here = host_of(hop.url)
    try:
        url = urljoin(hop.url, quote(location.encode("latin-1"), safe=_UNQUOTED))
        before, after = origin_of(hop.url), origin_of(url)
    except (ValueError, UnicodeError):
        raise RemoteProtocolError(f"{here} redirects to what is no URL") from None
    if after[0] not in _PORTS or not after[1]:
        raise RemoteProtocolError(f"{here} redirects to what is no http(s) URL")
    if after == before:
        # A POST that would become a GET is no answer to what was asked.
        follows = method != "POST" or status in _WITH_BODY
        return Hop(url=url, headers=hop.headers, guarded=hop.guarded) if follows else None
    there = f"{after[0]}://{host_of(url)}"
    if peer is Peer.WANDB or method == "POST":
        raise RemoteProtocolError(
            f"{here} redirects to {there}, and the key goes to no server but the one that was"
            f" named: if W&B is there, set WANDB_BASE_URL to {there}"
        )
    if before[0] == "https" and after[0] == "http" and peer is not Peer.REFERENCE:
        raise RemoteProtocolError(
            f"{here} redirects from https to {there}, where others could read along: ask who runs"
            " it to redirect to https"
        )
    kept = {name: value for name, value in hop.headers.items() if name.lower() in _FOR_ALL}
    return Hop(url=url, headers=kept, guarded=peer in (Peer.OBJECT_STORE, Peer.REFERENCE))

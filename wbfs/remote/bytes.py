"""File bytes: one GET, of a whole object or of a range, as a stream of pieces. Blocking code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from wbfs.model.errors import RemoteError, RemoteProtocolError, UrlExpired
from wbfs.remote.bodies import Piece
from wbfs.remote.failures import host_of
from wbfs.remote.redirects import Peer
from wbfs.remote.sending import Answer
from wbfs.remote.transport import Deadline, Transport

ERROR_BODY_BYTES = 4096
SLOWEST_BYTES_PER_S = 64 << 10
"""What bytes must come at: deadlines are stretched by the size at this rate."""

# Sizes beyond these no disk has, and no database takes.
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
# What stores answer with 400 to a URL that is past its time or wrongly signed.
_EXPIRED = re.compile(rb"expired|ExpiredToken|AccessDenied|AuthenticationFailed", re.IGNORECASE)


class ObjectMissing(RemoteError):
    """The store has no object at the URL: its word on that is not W&B's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a blob's bytes are: a URL, which may be signed, and how to ask for it.

    `proxies` None means those for the peer: W&B's own for its stores, else the environment's.
    """

    url: str = field(repr=False)
    peer: Peer = Peer.WANDB_STORE
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxies: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteStream:
    """Bytes as they come: `pieces` of up to 1 MiB; `size` is the whole object's, if it is known.

    Each piece is valid until the next is asked for.

    Reading the pieces raises RemoteError where the connection breaks, RemoteTimeout where it falls
    silent. Where the end is not certain, they may also just end: a connection that broke looks like
    the end then, and only a size or a digest that is known otherwise can tell.
    """

    size: int | None
    etag: str
    pieces: Iterator[Piece]
    end_is_certain: bool = True


@contextmanager
def open_stream(
    transport: Transport,
    location: Location,
    *,
    start: int = 0,
    stop: int | None = None,
    deadline: Deadline,
) -> Iterator[ByteStream]:
    """Ask for the bytes from `start` to before `stop`, or to the end.

    Raises UrlExpired where the URL is refused; ObjectMissing; RemoteProtocolError where other
    bytes than those asked for are sent; RateLimited, RemoteTimeout and RemoteError after the
    retries.
    """
    headers = dict(location.headers)
    ranged = start > 0 or stop is not None
    if ranged:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    url = location.url
    with transport.request(
        "GET",
        url,
        peer=location.peer,
        headers=headers,
        proxies=location.proxies,
        deadline=deadline,
    ) as response:
        _check_status(transport, response, url, deadline)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise RemoteProtocolError(f"{host_of(response.url)} sent the file compressed")
        yield stream_of(transport, response, start, stop, deadline)


def stream_of(
    transport: Transport,
    response: Answer,
    start: int,
    stop: int | None,
    deadline: Deadline,
) -> ByteStream:
    """Return the body of an answer with the bytes from `start` to before `stop`.

    Raises RemoteProtocolError where it is of others.
    """
    pieces = transport.pieces(response, deadline)
    etag = response.headers.get("ETag", "")
    if start > 0 or stop is not None:
        # The range's own length tells where it ends, however the answer is framed.
        count, size = _check_range(response, start, stop)
        return ByteStream(size=size, etag=etag, pieces=_all_of(pieces, count, response.url))
    raw = response.raw
    return ByteStream(
        size=_number(response.headers.get("Content-Length", "")),
        etag=etag,
        pieces=pieces,
        end_is_certain=raw.chunked or raw.length_remaining is not None,
    )


def _check_status(transport: Transport, response: Answer, url: str, deadline: Deadline) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    body = b""
    if status == 400:
        for piece in transport.pieces(response, deadline):
            body += piece
            if len(body) >= ERROR_BODY_BYTES:
                break
    if status in (401, 403) or _EXPIRED.search(body):
        raise UrlExpired(f"{host_of(url)} refuses the file's URL ({status})")
    kind = ObjectMissing if status in (404, 410) else RemoteError
    raise kind(f"{host_of(url)} answers {status} {response.reason} to the file's URL")


def _check_range(response: Answer, start: int, stop: int | None) -> tuple[int, int | None]:
    """Check that the answer is the range asked for; return its length and the whole object's."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != 206 or match is None:
        raise RemoteProtocolError(
            f"{host_of(response.url)} sent no range where one was asked for"
            f" ({response.status_code}): a proxy on the way may not know ranges"
        )
    first, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    ends = [end for end in (stop, size) if end is not None]
    if first != start or (ends and last != min(ends) - 1):
        raise RemoteProtocolError(f"{host_of(response.url)} sent another range than was asked for")
    return last + 1 - first, size


def _all_of(pieces: Iterator[Piece], count: int, url: str) -> Iterator[Piece]:
    """Yield the pieces. Raises RemoteError where they are fewer than so many bytes."""
    for piece in pieces:
        yield piece
        count -= len(piece)
    if count > 0:
        raise RemoteError(f"{host_of(url)} ended its answer {count} bytes early")


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None

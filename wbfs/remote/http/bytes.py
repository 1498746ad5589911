"""File bytes: one GET, of a whole object or of a range, as a stream of pieces. Blocking code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

import urllib3

from wbfs.model.errors import RemoteError, RemoteProtocolError, UrlExpired
from wbfs.remote.http.bodies import Piece
from wbfs.remote.http.failures import host_of
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.sending import Answer
from wbfs.remote.http.transport import Deadline, Transport

ERROR_BODY_BYTES = 4096
REFUSALS = (401, 403)
"""Statuses that say of a URL that it is wrong, or past its time."""
SLOWEST_BYTES_PER_S = 64 << 10
"""What bytes must come at: deadlines are stretched by the size at this rate."""

ANSWERED = frozenset({200, 203, 206})
"""Statuses of answers that have the bytes; 203 is a proxy's that may have changed something."""

# Sizes beyond these no disk has, and no database takes.
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
# What stores answer with 400 to a URL that is past its time or wrongly signed.
_EXPIRED = re.compile(rb"expired|ExpiredToken|AccessDenied|AuthenticationFailed", re.IGNORECASE)


# What answers a request for a part where only all of it can be had.
_NO_PARTS = frozenset({405, 501})


class ObjectMissing(RemoteError):
    """The store has no object at the URL: its word on that is not W&B's."""


class NotAcceptable(RemoteError):
    """The server doesn't give the object as it was asked for: as it is kept, or a part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a blob's bytes are: a URL, which may be signed, and how to ask for it.

    `proxies` None means those for the peer: W&B's own for its stores, else the environment's. With
    `unpacks` what comes compressed is unpacked, as it is where that is done on the way; else it is
    what is kept there, and comes as it is.
    """

    url: str = field(repr=False)
    peer: Peer = Peer.WANDB_STORE
    unpacks: bool = True
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxies: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteStream:
    """Bytes as they come: `pieces` of up to 1 MiB; `size` is the whole object's, if it is known.

    Each piece is valid until the next is asked for.
    Where the server knows no ranges they are all that there are, from the first, though some were
    asked for: `is_whole` tells.

    Reading the pieces raises RemoteError where the connection breaks, RemoteTimeout where it falls
    silent. Where the end is not certain, they may also just end: a connection that broke looks like
    the end then, and only a size or a digest that is known otherwise can tell.
    """

    size: int | None
    etag: str
    pieces: Iterator[Piece]
    end_is_certain: bool = True
    is_whole: bool = False


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

    A server that knows no ranges sends all of them; see ByteStream. Raises UrlExpired where the URL
    is refused; ObjectMissing; RemoteProtocolError where other bytes than those asked for are sent;
    RateLimited, RemoteTimeout and RemoteError after the retries.
    """

    def ask(ranges: Mapping[str, str]) -> AbstractContextManager[Answer]:
        return transport.request(
            "GET",
            location.url,
            peer=location.peer,
            headers={**location.headers, **ranges},
            proxies=location.proxies,
            deadline=deadline,
        )

    with answer_of(ask, start, stop) as (response, stop):
        _check_status(transport, response, location.url, deadline)
        yield stream_of(transport, response, start, stop, deadline, unpacks=location.unpacks)


@contextmanager
def answer_of(
    ask: Callable[[Mapping[str, str]], AbstractContextManager[Answer]], start: int, stop: int | None
) -> Iterator[tuple[Answer, int | None]]:
    """Yield what answers a request for bytes, and before which one those end that it was for.

    `ask` asks with those headers besides. Of what is empty a range can't be had, and some servers
    know none, send another than was asked for, or don't say which: all of it is asked for then.
    """
    is_ranged = start > 0 or stop is not None
    ranges = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if is_ranged else {}
    with ExitStack() as stack:
        response = stack.enter_context(ask(ranges))
        if response.status_code == 416 and start == 0 and stop is not None:
            stack.close()
            response, stop = stack.enter_context(ask({})), None
        elif ranges and (
            response.status_code in _NO_PARTS
            or response.status_code == 206
            and _range_of(response, start, stop) is None
        ):
            stack.close()
            response = stack.enter_context(ask({}))
        yield response, stop


def stream_of(
    transport: Transport,
    response: Answer,
    start: int,
    stop: int | None,
    deadline: Deadline,
    *,
    unpacks: bool,
) -> ByteStream:
    """Return the body of an answer to a request for the bytes from `start` to before `stop`.

    Raises RemoteProtocolError where it is of others.
    """
    is_packed = unpacks and _is_packed(response)
    pieces = transport.pieces(response, deadline, decode=is_packed)
    etag = response.headers.get("ETag", "")
    is_ranged = start > 0 or stop is not None
    # Dragonfly says 200 of ranges, too.
    if is_ranged and (response.status_code == 206 or "Content-Range" in response.headers):
        if is_packed:
            raise RemoteProtocolError(
                f"{host_of(response.url)} sent a part of the file compressed: a proxy on the way"
                " may do so"
            )
        # The range's own length tells where it ends, however the answer is framed.
        sent = _range_of(response, start, stop)
        if sent is None:
            raise RemoteProtocolError(
                f"{host_of(response.url)} sent another part than it was asked for, or says none"
            )
        count, size = sent
        return ByteStream(size=size, etag=etag, pieces=_all_of(pieces, count, response.url))
    raw = response.raw
    size = None if is_packed else content_length(response)
    return ByteStream(
        size=size,
        etag=etag,
        pieces=pieces,
        end_is_certain=raw.chunked or raw.length_remaining is not None,
        is_whole=is_ranged,
    )


def refused(url: str, status: int) -> UrlExpired:
    """Return the error of a URL that is refused."""
    return UrlExpired(f"{host_of(url)} refuses the file's URL ({status})")


def _is_packed(response: Answer) -> bool:
    """Whether an answer is compressed: stores repeat what they were told, which may be none."""
    encodings = response.headers.get("Content-Encoding", "").lower().split(",")
    return any(one.strip() in urllib3.HTTPResponse.CONTENT_DECODERS for one in encodings)


_KINDS = {404: ObjectMissing, 410: ObjectMissing} | dict.fromkeys(
    (400, 405, 406, 501), NotAcceptable
)


def _check_status(transport: Transport, response: Answer, url: str, deadline: Deadline) -> None:
    status = response.status_code
    if status in ANSWERED:
        return
    body = b""
    if status == 400:
        for piece in transport.pieces(response, deadline):
            body += piece
            if len(body) >= ERROR_BODY_BYTES:
                break
    if status in REFUSALS or _EXPIRED.search(body):
        raise refused(url, status)
    raise _KINDS.get(status, RemoteError)(
        f"{host_of(url)} answers {status} {response.reason} to the file's URL"
    )


def _range_of(response: Answer, start: int, stop: int | None) -> tuple[int, int | None] | None:
    """Return the length of the range that was sent, and the whole object's.

    None where it isn't the one that was asked for.
    """
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    ends = [end for end in (stop, size) if end is not None]
    if first != start or (ends and last != min(ends) - 1):
        return None
    return last + 1 - first, size


def _all_of(pieces: Iterator[Piece], count: int, url: str) -> Iterator[Piece]:
    """Yield the pieces. Raises RemoteError where they are fewer than so many bytes."""
    for piece in pieces:
        yield piece
        count -= len(piece)
    if count > 0:
        raise RemoteError(f"{host_of(url)} ended its answer {count} bytes early")


def content_length(response: Answer) -> int | None:
    """Return how many bytes a whole answer has, if it says so."""
    text = response.headers.get("Content-Length", "")
    return int(text) if _NUMBER.fullmatch(text) else None

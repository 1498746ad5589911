"""File bytes: one GET, of a whole object or of a range, as a stream of pieces. Blocking code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests
import urllib3

from wbfs.model.errors import RemoteError, RemoteProtocolError, UrlExpired
from wbfs.remote.transport import Deadline, Transport, host_of, timed_out, unreachable

PIECE_BYTES = 1 << 20
ERROR_BODY_BYTES = 4096

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# What stores answer with 400 to a URL that is past its time or wrongly signed.
_EXPIRED = re.compile(rb"expired|ExpiredToken|AccessDenied|AuthenticationFailed", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a blob's bytes are: a URL, which may be signed, and how to ask for it.

    `proxies` None means those of the environment.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxies: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteStream:
    """Bytes as they come: `pieces` of up to 1 MiB; `size` is the whole object's, if it is known.

    Reading the pieces raises RemoteError where the connection breaks, RemoteTimeout where it falls
    silent.
    """

    size: int | None
    etag: str
    pieces: Iterator[bytes]


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

    Raises UrlExpired where the URL is refused; RemoteProtocolError where other bytes than those
    asked for are sent; RateLimited, RemoteTimeout and RemoteError after the retries.
    """
    headers = dict(location.headers)
    ranged = start > 0 or stop is not None
    if ranged:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    url = location.url
    with transport.request(
        "GET", url, headers=headers, proxies=location.proxies, deadline=deadline
    ) as response:
        _check_status(response, url)
        size = _check_range(response, start, stop) if ranged else _length(response)
        yield ByteStream(
            size=size,
            etag=response.headers.get("ETag", ""),
            pieces=_pieces(transport, response, deadline),
        )


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    body = response.raw.read(ERROR_BODY_BYTES) if status == 400 else b""
    if status in (401, 403) or _EXPIRED.search(body):
        raise UrlExpired(f"{host_of(url)} refuses the file's URL ({status})")
    raise RemoteError(f"{host_of(url)} answers {status} {response.reason} to the file's URL")


def _check_range(response: requests.Response, start: int, stop: int | None) -> int | None:
    """Check that the answer is the range asked for; return the whole object's size."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != 206 or match is None:
        raise RemoteProtocolError(
            f"{host_of(response.url)} sent no range where one was asked for"
            f" ({response.status_code}): a proxy on the way may not know ranges"
        )
    first, last = int(match[1]), int(match[2])
    if first != start or (stop is not None and last >= stop):
        raise RemoteProtocolError(f"{host_of(response.url)} sent another range than was asked for")
    return None if match[3] == "*" else int(match[3])


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _pieces(
    transport: Transport, response: requests.Response, deadline: Deadline
) -> Iterator[bytes]:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RemoteProtocolError(f"{host_of(response.url)} sent the file compressed")
    raw = response.raw
    try:
        while piece := raw.read(PIECE_BYTES, decode_content=False):
            yield piece
            transport.checkpoint()
            if deadline.expired:
                raise timed_out(response.url)
        # A body that ends early is an IncompleteRead only to who reads past the end.
        if raw.length_remaining:
            raise RemoteError(f"{host_of(response.url)} closed the connection in mid-body")
    except urllib3.exceptions.ReadTimeoutError:
        raise timed_out(response.url) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise unreachable(response.url, error) from None

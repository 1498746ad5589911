"""What the object stores' references have in common: one GET of a range, and who asks for it.

The bytes come by our own transport, with its deadlines, retries and connections; of a vendor's
library only what finds the credentials and signs is used. Blocking code, called from many threads.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from wbfs.model.entries import Reference
from wbfs.model.errors import (
    AccessDenied,
    ReferenceChanged,
    ReferenceIsFolder,
    ReferenceMissing,
    ReferenceUnsupported,
    RemoteError,
    RemoteTimeout,
    WbfsError,
)
from wbfs.remote.http.bytes import (
    ANSWERED,
    ERROR_BODY_BYTES,
    ByteStream,
    answer_of,
    stream_of,
)
from wbfs.remote.http.failures import host_of, without_secrets
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.sending import Answer
from wbfs.remote.http.transport import Deadline, Transport

LOOK_AGAIN_S = 60.0
"""Seconds after which credentials that were not found, or were refused, are looked for again."""

_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
_REGION = re.compile(rb"<Region>([a-z0-9-]{1,32})</Region>")
# By these codes stores say with other statuses too that it is the credentials that they don't take.
_DENIED = frozenset({"ExpiredToken", "InvalidToken", "PublicAccessNotPermitted"})
# And by this one Azure says nothing of what is not public.
_HIDDEN = "ResourceNotFound"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRequest:
    """A GET of an object; `signed` tells whether anybody's credentials are in it."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    signed: bool


class Refused(RemoteError):
    """A store's answer other than the bytes; `region` is where S3 says that the bucket is.

    Like every error of ours it can be made of its text, and pickled.
    """

    status = 0
    code = ""
    region = ""
    signed = False

    @classmethod
    def answered(cls, request: ObjectRequest, *, status: int, code: str, region: str) -> Refused:
        """Return the error of an answer to `request`."""
        refused = cls(f"{host_of(request.url)} answers {status} {code} to a GET of the object")
        refused.status = status
        refused.code = code
        refused.region = region
        refused.signed = request.signed
        return refused

    @property
    def answer(self) -> str:
        """The answer in short."""
        return f"{self.status} {self.code}".rstrip()

    @property
    def denied(self) -> bool:
        """Whether it is for want of permission."""
        hidden = self.code == _HIDDEN and not self.signed
        return self.status in (401, 403) or self.code in _DENIED or hidden


class Kept(Generic[T]):
    """What a slow look-up found, kept while it is good; threads wait for the one that looks."""

    def __init__(self, look_up: Callable[[Deadline], tuple[T | None, float]]) -> None:
        """`look_up` returns what it found, or None, and for how many seconds that is good."""
        self._look_up = look_up
        self._lock = threading.Lock()
        self._found: T | None = None
        self._found_at_s = self._good_until_s = -math.inf

    def get(self, deadline: Deadline, *, refused: T | None = None) -> T | None:
        """Return what was found; looked up again if that was refused, but not all the time.

        Raises RemoteTimeout where the deadline passes meanwhile, and what the look-up raises.
        """
        with deadline.hold(self._lock, "looking for credentials"):
            now_s = time.monotonic()
            stale = refused is self._found and now_s > self._found_at_s + LOOK_AGAIN_S
            if now_s >= self._good_until_s or (refused is not None and stale):
                self._found, good_s = self._look_up(deadline)
                self._found_at_s = time.monotonic()
                self._good_until_s = self._found_at_s + good_s
            return self._found


def requests_by(
    kept: Kept[T], request: Callable[[T | None], ObjectRequest], deadline: Deadline
) -> Iterator[ObjectRequest]:
    """Yield the requests to try while each is refused: with the credentials, then without any.

    Public objects can be had without, also by those whose credentials are of no use for them.
    """
    login = kept.get(deadline)
    if login is not None:
        yield request(login)
        # Files that hold credentials are rewritten when those expire.
        newer = kept.get(deadline, refused=login)
        if newer is not None and newer is not login:
            yield request(newer)
    yield request(None)


@contextmanager
def open_object(
    transport: Transport,
    attempts: Iterable[ObjectRequest],
    *,
    start: int,
    stop: int | None,
    deadline: Deadline,
) -> Iterator[ByteStream]:
    """Ask for a range by the first of the requests that is not refused.

    Raises Refused; RemoteError, RemoteTimeout, RateLimited, RemoteProtocolError.
    """
    with ExitStack() as stack:
        yield _first(stack, transport, attempts, start, stop, deadline)


def _first(
    stack: ExitStack,
    transport: Transport,
    attempts: Iterable[ObjectRequest],
    start: int,
    stop: int | None,
    deadline: Deadline,
) -> ByteStream:
    first: Refused | None = None
    for request in attempts:
        try:
            return stack.enter_context(_get(transport, request, start, stop, deadline))
        except Refused as refused:
            # Without credentials the answer may be more true, but it tells less.
            first = refused if first is None or refused.status == 412 else first
            if not refused.denied:
                break
        except RemoteError:
            if first is None:
                raise
            break
    assert first is not None
    raise first


@contextmanager
def _get(
    transport: Transport, request: ObjectRequest, start: int, stop: int | None, deadline: Deadline
) -> Iterator[ByteStream]:
    def ask(ranges: Mapping[str, str]) -> AbstractContextManager[Answer]:
        headers = {**request.headers, **ranges}
        return transport.request(
            "GET", request.url, peer=Peer.OBJECT_STORE, headers=headers, deadline=deadline
        )

    with answer_of(ask, start, stop) as (response, stop):
        if response.status_code not in ANSWERED:
            raise _refused(transport, request, response, deadline)
        # Whatever its Content-Encoding: that is how it was stored, and its size is of that.
        yield stream_of(transport, response, start, stop, deadline, unpacks=False)


def _refused(
    transport: Transport, request: ObjectRequest, response: Answer, deadline: Deadline
) -> Refused:
    body = b""
    for piece in transport.pieces(response, deadline):
        body += piece
        if len(body) >= ERROR_BODY_BYTES:
            break
    code, region = _CODE.search(body), _REGION.search(body)
    return Refused.answered(
        request,
        status=response.status_code,
        code=response.headers.get("x-ms-error-code") or (code[1].decode() if code else ""),
        region=response.headers.get("x-amz-bucket-region")
        or (region[1].decode() if region else ""),
    )


def error_of(refused: Refused, reference: Reference, *, with_login: str, without: str) -> WbfsError:
    """Return what a store's refusal means; the texts say what to do about missing permission."""
    if refused.denied:
        return AccessDenied(
            f"{name_of(reference)} may not be read ({refused.answer}):"
            f" {with_login if refused.signed else without}"
        )
    if refused.status in (404, 410):
        version = f"the version {reference.version_id!r} of " if reference.version_id else ""
        return ReferenceMissing(
            f"{version}{name_of(reference)}, which was logged, is gone ({refused.answer}): ask"
            " whoever kept it there, or log the artifact again"
        )
    return changed(reference) if refused.status in (412, 416) else refused


def refuse_folder(reference: Reference, name: str) -> None:
    """Raise ReferenceIsFolder where a URI that is of `bucket/key` says that it is a folder."""
    bucket, _, key = name.partition("/")
    if reference.unchecked and bucket and (not key or key.endswith("/")):
        raise folder(reference)


def may_be_folder(refused: Refused, reference: Reference) -> bool:
    """Whether what was refused may be a folder: nothing tells that of what is gone."""
    return refused.status == 404 and reference.unchecked


def folder(reference: Reference) -> ReferenceIsFolder:
    """Return the error of what was logged with checksum=False, and is no object."""
    return ReferenceIsFolder(
        f"{name_of(reference)} is a folder, and was logged with checksum=False: then nothing is"
        " recorded of the objects in it, and there is no file; log it with checksum=True"
    )


def timed_out(doing: str) -> RemoteTimeout:
    """Return the error of work for a reference that did not end by the deadline."""
    return RemoteTimeout(f"{doing} takes too long: try again, or raise --timeout")


def if_match(reference: Reference) -> dict[str, str]:
    """Return the header by which a store gives the recorded object only.

    Raises ReferenceChanged where what was recorded can be no object's ETag.
    """
    if reference.unchecked:
        return {}
    if not (reference.token.isascii() and reference.token.isprintable()):
        # A manifest is foreign input; no object has such an ETag.
        raise changed(reference)
    return {"If-Match": f'"{reference.token}"'}


def check_etag(stream: ByteStream, reference: Reference) -> None:
    """Raise ReferenceChanged where a store gave another object, whatever it was asked for."""
    if not reference.unchecked and stream.etag.strip('"') != reference.token:
        raise changed(reference)


def changed(reference: Reference) -> ReferenceChanged:
    """Return the error of an object that was replaced, with nothing kept of what it was."""
    return ReferenceChanged(
        f"{name_of(reference)} is no longer the object that was logged: its ETag is not"
        f" {without_secrets(reference.token)!r} any more, and no older version of it that could be"
        " read has that one; log the artifact again to take it as it is now"
    )


def split_name(reference: Reference, name: str) -> tuple[str, str]:
    """Split `bucket/key`. Raises ReferenceUnsupported for what no HTTP request can name."""
    bucket, _, key = name.partition("/")
    parts = key.split("/")
    # On the way, "." and ".." would lead to another object, and so would a first slash.
    dotted = not {".", ".."}.isdisjoint(parts)
    if not bucket or not parts[0] or dotted or not _is_text(name + reference.version_id):
        raise ReferenceUnsupported(
            f"{name_of(reference)!r} names no object that can be asked for by HTTP; log it under"
            " another name"
        )
    return bucket, key


def _is_text(name: str) -> bool:
    """Whether it is without lone surrogates, which JSON can hold and UTF-8 can't."""
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)


def name_of(reference: Reference) -> str:
    """Return the object's URI as it may be told: without a query, which may be a signature."""
    return without_secrets(reference.uri).partition("?")[0]


def missing_extra(extra: str, scheme: str) -> ReferenceUnsupported:
    """Return the error of a vendor's library that isn't installed."""
    return ReferenceUnsupported(
        f"references to {scheme} need a library that is not installed: run"
        f" pip install 'wbfs[{extra}]' and mount again"
    )

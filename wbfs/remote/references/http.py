"""References to http and https URLs: the object must still have the ETag that was recorded.

The SDK asks as requests does, which lets servers compress what they send, and records the ETag that
it gets. Here the object is asked for as it is kept, in ranges; ETags are compared as the web means
it. Where they still differ, it is asked for as the SDK asks: what has the recorded ETag then is the
object that was logged, and is unpacked as the SDK unpacks it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from urllib.parse import unquote, urlsplit, urlunsplit

import requests

from wbfs.model.entries import Reference
from wbfs.model.errors import (
    AccessDenied,
    Offline,
    ReferenceChanged,
    ReferenceMissing,
    RemoteError,
    UrlExpired,
)
from wbfs.model.etags import same_object
from wbfs.model.lately import Lately
from wbfs.remote.http.bytes import (
    ByteStream,
    Location,
    NotAcceptable,
    ObjectMissing,
    content_length,
    open_stream,
)
from wbfs.remote.http.failures import host_of, without_secrets
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport

HEAD_TIMEOUT_S = 5.0
"""Seconds that a server has to answer HEAD, which some don't: it can be asked otherwise."""


class HttpReferences:
    """Reads them with no credentials but those that stand in their URLs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        # What only has the recorded ETag when it is asked for as the SDK asks.
        self._as_logged: Lately[tuple[str, str], bool] = Lately()
        # Whether HEAD tells true sizes of a type of files in a folder of a server: some refuse it,
        # are silent at it, or answer what isn't so.
        self._heads: Lately[str, bool] = Lately()
        # What was believed.
        self._told: Lately[tuple[str, str], int] = Lately()

    def refuse(self, reference: Reference) -> None:
        """Raise AccessDenied where the URI itself says that it leads to where none may."""
        self._transport.refuse_reference(reference.uri)

    @contextmanager
    def open(
        self, reference: Reference, *, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        """Ask for bytes of the recorded object.

        Raises ReferenceChanged, or ReferenceMissing where it is gone; AccessDenied; RemoteError.
        """
        known = (reference.uri, reference.token)
        etag = ""
        with ExitStack() as stack:
            if not self._as_logged.get(known):
                stream = self._as_it_is_kept(stack, reference, start, stop, deadline)
                if stream is not None:
                    if reference.unchecked or same_object(stream.etag, reference.token):
                        if self._told.get(known) not in (None, stream.size):
                            # Whoever asks again is to know better.
                            self._heads.put(_place_of(reference), False)
                        yield stream
                        return
                    etag = stream.etag
                stack.close()
            # Its ranges would be of what is compressed.
            stream = stack.enter_context(
                self._open(reference, _as_the_sdk_does(reference), 0, None, deadline)
            )
            # As the SDK compares them.
            if not reference.unchecked and stream.etag.strip('"') != reference.token:
                raise _changed(reference, etag or stream.etag)
            self._as_logged.put(known, True)
            yield replace(stream, is_whole=start > 0 or stop is not None)

    def _as_it_is_kept(
        self,
        stack: ExitStack,
        reference: Reference,
        start: int,
        stop: int | None,
        deadline: Deadline,
    ) -> ByteStream | None:
        """Ask for bytes of the object as it is kept; return None where the server gives none so.

        Some refuse whoever asks for a part, or have nothing that isn't compressed.
        """
        location = _as_kept(reference)
        is_ranged = start > 0 or stop is not None
        with suppress(NotAcceptable, AccessDenied):
            return stack.enter_context(self._open(reference, location, start, stop, deadline))
        if is_ranged:
            with suppress(NotAcceptable, AccessDenied):
                whole = stack.enter_context(self._open(reference, location, 0, None, deadline))
                return replace(whole, is_whole=True)
        return None

    def size(self, reference: Reference, *, deadline: Deadline) -> int | None:
        """Ask for the size of the recorded object, None where the server doesn't tell.

        Raises what `open` does.
        """
        known, place = (reference.uri, reference.token), _place_of(reference)
        is_true = self._heads.get(place)
        told = None
        if not self._as_logged.get(known) and is_true is not False:
            told = self._head(reference, deadline)
            if told is not None and is_true:
                self._told.put(known, told)
                return told
        with self.open(reference, start=0, stop=1, deadline=deadline) as stream:
            size = told if stream.size is None else stream.size
        if told is not None:
            self._heads.put(place, told == size)
        return size

    def _head(self, reference: Reference, deadline: Deadline) -> int | None:
        """Return what an answer to HEAD says of the size; some servers' say nothing of use."""
        location = _as_kept(reference)
        soon = Deadline.after(min(HEAD_TIMEOUT_S, deadline.remaining_s / 2), retried_s=0)
        try:
            with self._transport.request(
                "HEAD", location.url, peer=location.peer, headers=location.headers, deadline=soon
            ) as response:
                etag = response.headers.get("ETag", "")
                is_it = reference.unchecked or same_object(etag, reference.token)
                if response.status_code == 200 and is_it:
                    # Those that don't know it say 0 as well.
                    return content_length(response) or None
                refuses = response.status_code in (403, 405, 501)
        except Offline:
            raise
        except RemoteError:
            refuses = True
        if refuses:
            self._heads.put(_place_of(reference), False)
        return None

    @contextmanager
    def _open(
        self,
        reference: Reference,
        location: Location,
        start: int,
        stop: int | None,
        deadline: Deadline,
    ) -> Iterator[ByteStream]:
        host = host_of(reference.uri)
        request = open_stream(self._transport, location, start=start, stop=stop, deadline=deadline)
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(request)
            except UrlExpired:
                # It was never signed: there is no fresh one to be had.
                raise AccessDenied(
                    _denied(host, has_login="Authorization" in location.headers)
                ) from None
            except ObjectMissing:
                raise ReferenceMissing(
                    f"the object at {host} that was logged is gone: ask whoever kept it there, or"
                    " log the artifact again"
                ) from None
            yield stream


def _place_of(reference: Reference) -> str:
    """Return what is likely to be answered alike: what is in one folder, of one type."""
    folder, _, name = reference.uri.partition("?")[0].rpartition("/")
    return f"{folder}/*{os.path.splitext(name)[1].lower()}"


def _denied(host: str, *, has_login: bool) -> str:
    if has_login:
        return (
            f"{host} doesn't take the user and password that stand in the reference's URL: log it"
            " with those that are good now"
        )
    return (
        f"{host} gives the object to nobody who is not logged in there, and wbfs has no login for"
        " it: make it public, or log a copy of it"
    )


def _changed(reference: Reference, etag: str) -> ReferenceChanged:
    # As the SDK writes it: the ETag without quotes, or the URL where there was none.
    return ReferenceChanged(
        f"the object at {host_of(reference.uri)} is no longer the one that was logged: its ETag is"
        f" {etag or 'missing'} and was {without_secrets(reference.token)!r}; log the artifact again"
        " to take the new one"
    )


def _as_kept(reference: Reference) -> Location:
    """Return where an object is asked for as it is kept: what is kept compressed comes so."""
    url, login = _split_login(reference.uri)
    return Location(url=url, peer=Peer.REFERENCE, headers=login, unpacks=False)


def _as_the_sdk_does(reference: Reference) -> Location:
    """Return where an object is asked for with requests' own headers, as the SDK does."""
    url, login = _split_login(reference.uri)
    headers = {**requests.utils.default_headers(), **login}
    return Location(url=url, peer=Peer.REFERENCE, headers=headers, unpacks=True)


def _split_login(uri: str) -> tuple[str, Mapping[str, str]]:
    """Return a URL without user and password, and the header that they go in; as requests does.

    That header goes to no other origin.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri, {}
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return uri, {}
    url = urlunsplit(parts._replace(netloc=host))
    user, colon, password = login.partition(":")
    if not colon:
        return url, {}
    text = f"{unquote(user)}:{unquote(password)}"
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogatepass")
    return url, {"Authorization": "Basic " + base64.b64encode(raw).decode()}

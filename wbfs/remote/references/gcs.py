"""References to gs://, read at the recorded generation.

google-auth, which Google's own client libraries sign in with, finds the credentials; the bytes come
by our own transport: the storage client's retries know nothing of a reader's deadline, and it would
unpack what was stored compressed, which then had not the size that the manifest says.
"""

from __future__ import annotations

import datetime
import functools
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from urllib.parse import quote, urlencode

import msgspec

from wbfs.model.entries import Reference
from wbfs.model.errors import AccessDenied, RemoteError, WbfsError
from wbfs.model.lately import Lately
from wbfs.remote.http.bytes import ByteStream
from wbfs.remote.http.failures import without_secrets
from wbfs.remote.http.transport import SILENCE_S, Deadline, Transport
from wbfs.remote.references.objects import (
    LOOK_AGAIN_S,
    Kept,
    ObjectRequest,
    Refused,
    changed,
    error_of,
    folder,
    may_be_folder,
    missing_extra,
    open_object,
    refuse_folder,
    requests_by,
    split_name,
)

SCHEME = "gs://"
SERVER = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
RENEW_BEFORE_S = 300.0
"""Seconds before its end at which a token is no longer used."""


class _Object(msgspec.Struct):
    """What is asked of an object beside its bytes."""

    etag: str
    generation: str


class _Listing(msgspec.Struct):
    """Objects whose names begin alike."""

    items: list[msgspec.Raw] = []


class GcsReferences:
    """Reads them from Google Cloud Storage, or from what STORAGE_EMULATOR_HOST names."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._login = Kept(_log_in)
        # The generations of recorded ETags, as the store told them.
        self._generations: Lately[tuple[str, str], str] = Lately()

    @contextmanager
    def open(
        self, reference: Reference, *, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        """Ask for bytes of the recorded object.

        Raises ReferenceChanged, or ReferenceMissing where it is gone; AccessDenied;
        ReferenceUnsupported, also without google-auth; RemoteError and its kinds.
        """
        self._transport.refuse_offline()
        refuse_folder(reference, reference.uri.removeprefix(SCHEME))
        path = _path(reference)
        generation = reference.version_id
        if not generation and not reference.unchecked:
            generation = self._generation(reference, path, deadline)
        query = "?alt=media" + (f"&generation={quote(generation, safe='')}" if generation else "")
        with ExitStack() as stack:
            # That it may be compressed: else the server unpacks what was stored so.
            stored = self._get(
                f"/download{path}{query}",
                {"Accept-Encoding": "gzip"},
                start=start,
                stop=stop,
                deadline=deadline,
            )
            try:
                stream = stack.enter_context(stored)
            except Refused as refused:
                if refused.status == 404 and generation:
                    # Either it is gone, or another one took its place; the one raises here.
                    self._object(reference, path, deadline)
                    raise changed(reference) from None
                if self._is_folder(refused, reference, deadline):
                    raise folder(reference) from None
                raise _error(refused, reference) from None
            yield stream

    def _is_folder(self, refused: Refused, reference: Reference, deadline: Deadline) -> bool:
        """Whether there are objects below what was refused."""
        if not may_be_folder(refused, reference):
            return False
        bucket, key = split_name(reference, reference.uri.removeprefix(SCHEME))
        query = urlencode({"prefix": f"{key}/", "maxResults": 1, "fields": "items(name)"})
        try:
            path = f"/storage/v1/b/{quote(bucket, safe='')}/o?{query}"
            with self._get(path, {}, deadline=deadline) as stream:
                found = msgspec.json.decode(b"".join(map(bytes, stream.pieces)), type=_Listing)
        except (Refused, msgspec.MsgspecError):
            return False
        return bool(found.items)

    def _generation(self, reference: Reference, path: str, deadline: Deadline) -> str:
        """Return the generation of the object, which must have the recorded ETag."""
        known = (reference.uri, reference.token)
        generation = self._generations.get(known)
        if generation is None:
            found = self._object(reference, path, deadline)
            if found.etag != reference.token:
                raise changed(reference)
            generation = found.generation
            self._generations.put(known, generation)
        return generation

    def _object(self, reference: Reference, path: str, deadline: Deadline) -> _Object:
        """Return what the store says of the object as it is now."""
        try:
            with self._get(f"{path}?fields=etag,generation", {}, deadline=deadline) as stream:
                return msgspec.json.decode(b"".join(map(bytes, stream.pieces)), type=_Object)
        except Refused as refused:
            raise _error(refused, reference) from None
        except msgspec.MsgspecError:
            raise RemoteError(f"{_server()} tells of an object in a way of its own") from None

    def _get(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        start: int = 0,
        stop: int | None = None,
        deadline: Deadline,
    ) -> AbstractContextManager[ByteStream]:
        def request(login: Mapping[str, str] | None) -> ObjectRequest:
            return ObjectRequest(
                url=_server() + path, headers={**headers, **(login or {})}, signed=bool(login)
            )

        attempts = requests_by(self._login, request, deadline)
        return open_object(self._transport, attempts, start=start, stop=stop, deadline=deadline)


def _server() -> str:
    """Return the server's address, which Google's tools let an emulator's take the place of."""
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    if emulator and "://" not in emulator:
        return f"http://{emulator}"
    return emulator or SERVER


def _path(reference: Reference) -> str:
    """Return the path of the object in Google's JSON API."""
    bucket, key = split_name(reference, reference.uri.removeprefix(SCHEME))
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


def _error(refused: Refused, reference: Reference) -> WbfsError:
    return error_of(
        refused,
        reference,
        with_login="the Google credentials that were found don't allow it: ask its owner for the"
        " role Storage Object Viewer, or mount with GOOGLE_APPLICATION_CREDENTIALS naming others",
        without="it is not public, and no Google credentials were found, neither the file that"
        " GOOGLE_APPLICATION_CREDENTIALS names nor gcloud's nor this machine's: run"
        " `gcloud auth application-default login`, or set that variable and mount again",
    )


def _log_in(deadline: Deadline) -> tuple[Mapping[str, str] | None, float]:
    """Return the headers that sign in, and for how many seconds they do."""
    try:
        import google.auth
        import google.auth.transport.requests
        from google.auth import exceptions
    except ImportError:
        raise missing_extra("gcs", SCHEME) from None
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return None, LOOK_AGAIN_S
    headers: dict[str, str] = {}
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
        session = google.auth.transport.requests.Request()
        credentials.before_request(
            functools.partial(session, timeout=SILENCE_S), "GET", SERVER, headers
        )
    except exceptions.TransportError as error:
        said = without_secrets(str(error))
        raise RemoteError(f"can't ask Google for a token: {said}") from None
    except exceptions.GoogleAuthError as error:
        named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        if isinstance(error, exceptions.DefaultCredentialsError) and not named:
            return None, LOOK_AGAIN_S
        said = without_secrets(str(error))
        raise AccessDenied(
            f"can't use the Google credentials that were found: {said}; renew them with"
            " `gcloud auth application-default login`, or correct GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    # Google's are naive, in UTC.
    expiry = credentials.expiry
    if expiry is None:
        return headers, math.inf
    left_s = (
        expiry.replace(tzinfo=datetime.UTC) - datetime.datetime.now(datetime.UTC)
    ).total_seconds()
    return headers, max(left_s - RENEW_BEFORE_S, 1.0)

"""References to http and https URLs: the object must still have the ETag that was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from wbfs.model.entries import Reference
from wbfs.model.errors import AccessDenied, ReferenceChanged, ReferenceMissing, UrlExpired
from wbfs.remote.bytes import ByteStream, Location, ObjectMissing, open_stream
from wbfs.remote.failures import host_of, without_secrets
from wbfs.remote.redirects import Peer
from wbfs.remote.transport import Deadline, Transport


class HttpReferences:
    """Reads them without any credentials: the host is nobody that we know."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

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
        host = host_of(reference.uri)
        location = Location(url=reference.uri, peer=Peer.REFERENCE)
        request = open_stream(self._transport, location, start=start, stop=stop, deadline=deadline)
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(request)
            except UrlExpired:
                # It was never signed: there is no fresh one to be had.
                raise AccessDenied(
                    f"{host} gives the object to nobody who is not logged in there, and wbfs has"
                    " no login for it: make it public, or log a copy of it"
                ) from None
            except ObjectMissing:
                raise ReferenceMissing(
                    f"the object at {host} that was logged is gone: ask whoever kept it there, or"
                    " log the artifact again"
                ) from None
            # As the SDK writes it: the ETag without quotes, or the URL where there was none.
            if not reference.unchecked and stream.etag.strip('"') != reference.token:
                raise ReferenceChanged(
                    f"the object at {host} is no longer the one that was logged: its ETag is"
                    f" {stream.etag or 'missing'} and was {without_secrets(reference.token)!r}; log"
                    " the artifact again to take the new one"
                )
            yield stream

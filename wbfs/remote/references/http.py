"""References to http and https URLs: the object must still have the ETag that was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wbfs.model.entries import Reference
from wbfs.model.errors import ReferenceChanged
from wbfs.remote.bytes import ByteStream, Location, open_stream
from wbfs.remote.transport import Deadline, Transport, host_of


class HttpReferences:
    """Reads them without any credentials: the host is nobody that we know."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @contextmanager
    def open(
        self, reference: Reference, *, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        """Ask for bytes of the recorded object. Raises ReferenceChanged, RemoteError."""
        location = Location(url=reference.uri)
        with open_stream(
            self._transport, location, start=start, stop=stop, deadline=deadline
        ) as stream:
            # As the SDK writes it: the ETag without quotes, or the URL where there was none.
            if not reference.unchecked and stream.etag.strip('"') != reference.token:
                raise ReferenceChanged(
                    f"the object at {host_of(reference.uri)} is no longer the one that was logged:"
                    f" its ETag is {stream.etag or 'missing'} and was {reference.token!r}; log the"
                    " artifact again to take the new one"
                )
            yield stream

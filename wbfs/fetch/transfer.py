"""A file's bytes from its source to whoever writes them down, over as many requests as it takes.

Blocking code, run in worker threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from wbfs.model.entries import Blob, Entry
from wbfs.model.errors import (
    IntegrityError,
    Offline,
    ReferenceChanged,
    RemoteError,
    UrlExpired,
    WbfsError,
)
from wbfs.remote.bodies import Piece
from wbfs.remote.bytes import SLOWEST_BYTES_PER_S, ByteStream
from wbfs.remote.failures import without_secrets
from wbfs.remote.transport import Deadline
from wbfs.store.blobs import SealedBlob
from wbfs.store.partial import SmallBlob

T = TypeVar("T")

log = logging.getLogger(__name__)

FUTILE_ATTEMPTS = 4
"""Attempts in a row that brought no byte before a fetch is given up."""


class Opener(Protocol):
    """Asks for the bytes of one file from `start` to before `stop`, or to the end."""

    def __call__(
        self, *, start: int, stop: int | None, deadline: Deadline
    ) -> AbstractContextManager[ByteStream]: ...


def fetch_whole(
    opener: Opener,
    create: Callable[[Blob], SmallBlob],
    entry: Entry,
    *,
    path: str,
    deadline: Deadline,
    is_unread: bool = False,
) -> tuple[SealedBlob, int]:
    """Fetch a file into what `create` makes, twice if its bytes are wrong; return it and its size.

    `path` is for messages. What `is_unread` is the first to be evicted, until it is opened. Raises
    WbfsError.
    """

    def fetch_once() -> tuple[SealedBlob, int]:
        with create(entry.blob) as partial:
            is_whole = transfer(opener, entry, partial.write, path=path, deadline=deadline)
            # What may end too early is read once, and not kept for others.
            sealed = partial.seal(is_unread=is_unread) if is_whole else partial.unnamed()
            return sealed, partial.written

    return twice_if_wrong(fetch_once, entry, path=path)


def twice_if_wrong(fetch: Callable[[], T], entry: Entry, *, path: str) -> T:
    """Return what `fetch` brings of an entry, which is called again if the bytes were wrong.

    `path` is for messages. Raises WbfsError: what `fetch` raises, and where the bytes are wrong
    again, what that means.
    """
    try:
        return fetch()
    except IntegrityError as error:
        log.warning("%s: %s; it is fetched once more", path, error)
    try:
        return fetch()
    except IntegrityError as error:
        raise damaged(entry, error) from error


def stretched(timeout_s: float, size: int | None) -> float:
    """Return the seconds that a fetch of `size` bytes may take at most."""
    return timeout_s + (size or 0) / SLOWEST_BYTES_PER_S


def deadline_of(timeout_s: float, size: int | None) -> Deadline:
    """Return the deadline of a fetch of `size` bytes, of a server that may be silent so long."""
    return Deadline.after(stretched(timeout_s, size), patience_s=timeout_s)


def transfer(
    opener: Opener,
    entry: Entry,
    write: Callable[[int, Piece], None],
    *,
    path: str,
    start: int = 0,
    stop: Callable[[], int | None] = lambda: None,
    deadline: Deadline,
) -> bool:
    """Give `write` the entry's bytes from `start` on, in order, with the offset of each piece.

    They end before what `stop` returns, which may come down meanwhile; None is the file's end. A
    connection that is cut goes on where it stopped, with a fresh URL. Return whether something
    tells that the end is the file's: the server, the manifest, or the digest later. Raises
    IntegrityError where the file has another size than the manifest says, and what `opener` raises.
    """
    has_known_end = entry.size is not None or entry.digest is not None
    position = start
    futile, progressed_s = 0, time.monotonic()
    while True:
        before = position
        try:
            asked_stop = stop()
            if asked_stop is not None and position >= asked_stop:
                return True
            with opener(start=position, stop=asked_stop, deadline=deadline) as stream:
                if None not in (stream.size, entry.size) and stream.size != entry.size:
                    raise IntegrityError(
                        f"it has {stream.size} bytes where the manifest says {entry.size}"
                    )
                for piece in stream.pieces:
                    wanted_stop = stop()
                    if wanted_stop is not None:
                        piece = piece[: max(0, wanted_stop - position)]
                    write(position, piece)
                    position += len(piece)
                    if entry.size is not None and position > entry.size:
                        raise IntegrityError(
                            f"got more than the {entry.size} bytes of the manifest"
                        )
                    if wanted_stop != asked_stop and position >= (wanted_stop or 0):
                        return True
            if asked_stop is not None and position < asked_stop:
                raise RemoteError(f"the server's answer ended {asked_stop - position} bytes early")
            return stream.end_is_certain or has_known_end
        except Offline:
            raise
        except RemoteError as error:
            if position == (entry.size if asked_stop is None else asked_stop):
                # Only the end's sign is missing; the digest tells whether it is the end.
                return True
            if position > before:
                futile, progressed_s = 0, time.monotonic()
            else:
                futile += 1
            is_silent = time.monotonic() - progressed_s >= deadline.patience_s
            final = isinstance(error, UrlExpired) and futile > 1
            if is_silent or final or futile >= FUTILE_ATTEMPTS or deadline.expired:
                raise
            if position and entry.reference and entry.reference.unchecked:
                # Nothing would tell if the rest were another object's.
                raise
            log.info("%s goes on: %s", path, error)


def damaged(entry: Entry, error: IntegrityError) -> WbfsError:
    """Return the error of an entry whose bytes were wrong twice."""
    if entry.reference is not None and not entry.reference.is_of_artifact:
        uri = without_secrets(entry.reference.uri)
        return ReferenceChanged(
            f"{uri} is no longer what was logged: {error}; log the artifact again to take it as it"
            " is now"
        )
    return IntegrityError(
        f"it is damaged on the server or on the way, twice: {error}; log the artifact again, or"
        " ask who runs the server"
    )

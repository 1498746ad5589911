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
    RemoteTimeout,
    UrlExpired,
    WbfsError,
)
from wbfs.remote.http.bodies import Piece
from wbfs.remote.http.bytes import SLOWEST_BYTES_PER_S, ByteStream
from wbfs.remote.http.failures import SLOW, without_secrets
from wbfs.remote.http.transport import Deadline
from wbfs.store.content.partial import SmallBlob
from wbfs.store.content.sealed import SealedBlob

T = TypeVar("T")

log = logging.getLogger(__name__)


LARGEST_BYTES = 1 << 40
"""What a file of unknown size is taken to have at most."""


class RangesIgnored(RemoteError):
    """A server sends all of a file, which comes by another request already."""


FUTILE_ATTEMPTS = 4
"""Attempts in a row that brought no byte before a fetch is given up."""


class Opener(Protocol):
    """Asks for the bytes of one file from `start` to before `stop`, or to the end."""

    def __call__(
        self, *, start: int, stop: int | None, deadline: Deadline
    ) -> AbstractContextManager[ByteStream]: ...

    def distrust(self) -> None:
        """Take note that what came was wrong, before it is asked for again."""


def fetch_whole(
    opener: Opener,
    create: Callable[[Blob], SmallBlob],
    entry: Entry,
    *,
    path: str,
    deadline: Deadline,
    is_unread: bool = False,
    was_wrong: bool = False,
) -> tuple[SealedBlob, int]:
    """Fetch a file into what `create` makes, twice if its bytes are wrong; return it and its size.

    `path` is for messages. What `is_unread` is the first to be evicted, until it is opened; of what
    `was_wrong` they were wrong once. Raises WbfsError.
    """

    def fetch_once() -> tuple[SealedBlob, int]:
        with create(entry.blob) as partial:
            is_whole = transfer(opener, entry, partial.write, path=path, deadline=deadline)
            # What may end too early is read once, and not kept for others.
            sealed = partial.seal(is_unread=is_unread) if is_whole else partial.unnamed()
            return sealed, partial.written

    return twice_if_wrong(fetch_once, opener, entry, path=path, was_wrong=was_wrong)


def twice_if_wrong(
    fetch: Callable[[], T], opener: Opener, entry: Entry, *, path: str, was_wrong: bool = False
) -> T:
    """Return what `fetch` brings by `opener`, which is called again if the bytes were wrong.

    `path` is for messages. Raises WbfsError: what `fetch` raises, and where the bytes are wrong
    again, what that means.
    """
    if not was_wrong:
        try:
            return fetch()
        except IntegrityError as error:
            log.warning("%s: %s; it is fetched once more", path, error)
        opener.distrust()
    try:
        return fetch()
    except IntegrityError as error:
        raise damaged(entry, error) from error


def stretched(timeout_s: float, size: int | None) -> float:
    """Return the seconds that a fetch of `size` bytes may take at most.

    One of unknown size may take as long as a very large one; `transfer` sees to it that enough of
    its bytes come.
    """
    return timeout_s + (LARGEST_BYTES if size is None else size) / SLOWEST_BYTES_PER_S


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
    on_whole: Callable[[int], int] = lambda position: position,
    deadline: Deadline,
) -> bool:
    """Give `write` the entry's bytes from `start` on, in order, with the offset of each piece.

    They end before what `stop` returns, which may change meanwhile; None is the file's end. A
    connection that is cut goes on where it stopped, with a fresh URL. Where a server sends all
    though some were asked for, `on_whole` is told from where they were, and returns from where
    `write` gets them. Return whether something tells that the end is the file's: the server, the
    manifest, or the digest later. Raises IntegrityError where the file has another size than the
    manifest says, and what `opener` and `on_whole` raise.
    """
    has_known_end = entry.size is not None or entry.digest is not None
    is_checked = entry.reference is None or not entry.reference.unchecked
    etag = ""
    position = start
    began_s = progressed_s = time.monotonic()
    futile = 0

    def slowest_s(position: int) -> float:
        return began_s + stretched(deadline.patience_s, position)

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
                if not is_checked:
                    if etag not in ("", stream.etag):
                        raise IntegrityError("it has changed while it was read")
                    # Weak ones are no word on single bytes.
                    etag = "" if stream.etag[:2].upper() == "W/" else stream.etag
                if stream.is_whole:
                    before = position = on_whole(position)
                at = 0 if stream.is_whole else position
                for piece in stream.pieces:
                    wanted_stop = stop()
                    skipped = max(0, position - at)
                    at += len(piece)
                    piece = piece[skipped:]
                    if wanted_stop is not None:
                        piece = piece[: max(0, wanted_stop - position)]
                    if piece:
                        write(position, piece)
                    position += len(piece)
                    if entry.size is not None and position > entry.size:
                        raise IntegrityError(
                            f"got more than the {entry.size} bytes of the manifest"
                        )
                    if entry.size is None and time.monotonic() > slowest_s(position):
                        raise RemoteTimeout(f"only {position} bytes came in time: {SLOW}")
                    goes_on = stream.is_whole or wanted_stop != asked_stop
                    if goes_on and wanted_stop is not None and position >= wanted_stop:
                        return True
            asked_stop = stop()
            if asked_stop is not None and position < asked_stop:
                raise RemoteError(f"the server's answer ended {asked_stop - position} bytes early")
            return stream.end_is_certain or has_known_end
        except (Offline, RangesIgnored):
            raise
        except RemoteError as error:
            wanted_stop = stop()
            if position == (entry.size if wanted_stop is None else wanted_stop):
                # Only the end's sign is missing; the digest tells whether it is the end.
                return True
            if position > before:
                futile, progressed_s = 0, time.monotonic()
            else:
                futile += 1
            is_silent = time.monotonic() - progressed_s >= deadline.patience_s
            final = isinstance(error, UrlExpired) and futile > 1
            is_slow = entry.size is None and time.monotonic() > slowest_s(position)
            is_over = is_silent or is_slow or deadline.expired
            if is_over or final or futile >= FUTILE_ATTEMPTS:
                raise
            if position and not is_checked and not etag:
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

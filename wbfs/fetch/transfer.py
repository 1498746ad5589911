"""One file's bytes from its source to whoever writes them down, over as many requests as it takes.

Blocking code, run in worker threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from wbfs.fetch.sources import Sources
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import IntegrityError, Offline, RemoteError, UrlExpired
from wbfs.remote.transport import Deadline

log = logging.getLogger(__name__)

FUTILE_ATTEMPTS = 4
"""Attempts in a row that brought no byte before a fetch is given up."""
SLOWEST_BYTES_PER_S = 64 << 10
"""A fetch's deadline is stretched by its size at this rate."""


def stretched(timeout_s: float, size: int | None) -> float:
    """Return the seconds that a fetch of `size` bytes may take at most."""
    return timeout_s + (size or 0) / SLOWEST_BYTES_PER_S


def transfer(
    sources: Sources,
    version: Version,
    entry: Entry,
    write: Callable[[int, bytes], None],
    *,
    start: int = 0,
    stop: Callable[[], int | None] = lambda: None,
    deadline: Deadline,
) -> None:
    """Give `write` the entry's bytes from `start` on, in order, with the offset of each piece.

    They end before what `stop` returns, which may come down meanwhile; None is the file's end. A
    connection that is cut goes on where it stopped, with a fresh URL. Raises IntegrityError where
    the file has another size than the manifest says, and the errors of `Sources.open`.
    """
    position = start
    futile = 0
    while True:
        before = position
        try:
            asked_stop = stop()
            if asked_stop is not None and position >= asked_stop:
                return
            with sources.open(
                version, entry, start=position, stop=asked_stop, deadline=deadline
            ) as stream:
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
                        return
            if asked_stop is not None and position < asked_stop:
                raise RemoteError(f"the server's answer ended {asked_stop - position} bytes early")
            return
        except Offline:
            raise
        except RemoteError as error:
            if position == (entry.size if asked_stop is None else asked_stop):
                # Only the end's sign is missing; the digest tells whether it is the end.
                return
            futile = 0 if position > before else futile + 1
            final = isinstance(error, UrlExpired) and futile > 1
            if final or futile >= FUTILE_ATTEMPTS or deadline.expired:
                raise
            if position and entry.reference and entry.reference.unchecked:
                # Nothing would tell if the rest were another object's.
                raise
            log.info("%s/%s goes on: %s", version.path, entry.path, error)

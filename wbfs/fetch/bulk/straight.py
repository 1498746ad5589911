"""Files fetched straight to where they belong, where the cache can't take them.

Blocking code, for worker threads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from wbfs.fetch.transfer import Opener, damaged, transfer
from wbfs.model.digests import new_hasher
from wbfs.model.entries import Entry
from wbfs.model.errors import IntegrityError
from wbfs.remote.transport import Deadline

log = logging.getLogger(__name__)


def fetch_straight(
    opener: Opener,
    entry: Entry,
    fd: int,
    *,
    path: str,
    deadline: Deadline,
    note: Callable[[int], None],
) -> None:
    """Write an entry's bytes to the open file `fd`, checked, and fetched twice if they are wrong.

    `path` is for messages; `note` is told of the bytes of each piece. Raises WbfsError, and OSError
    where the file can't be written.
    """
    try:
        _fetch_once(opener, entry, fd, path, deadline, note)
        return
    except IntegrityError as error:
        log.warning("%s: %s; it is fetched once more", path, error)
    try:
        os.ftruncate(fd, 0)
        _fetch_once(opener, entry, fd, path, deadline, note)
    except IntegrityError as error:
        raise damaged(entry, error) from error


def _fetch_once(
    opener: Opener,
    entry: Entry,
    fd: int,
    path: str,
    deadline: Deadline,
    note: Callable[[int], None],
) -> None:
    hasher = new_hasher(entry.digest.algorithm) if entry.digest else None
    written = 0

    def write(offset: int, piece: bytes) -> None:
        nonlocal written
        if hasher:
            hasher.update(piece)
        view = memoryview(piece)
        while view:
            count = os.pwrite(fd, view, offset)
            offset, view = offset + count, view[count:]
        written = offset
        note(len(piece))

    transfer(opener, entry, write, path=path, deadline=deadline)
    if entry.size is not None and written != entry.size:
        raise IntegrityError(f"got {written} bytes where {entry.size} were expected")
    if hasher and entry.digest and hasher.hexdigest() != entry.digest.hex:
        raise IntegrityError(
            f"got bytes of digest {entry.digest.algorithm}:{hasher.hexdigest()} where"
            f" {entry.digest} was expected"
        )

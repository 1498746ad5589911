"""Files fetched straight to where they belong, where the cache can't take them.

Blocking code, for worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from wbfs.fetch.transfer import Opener, transfer, twice_if_wrong
from wbfs.model.digests import new_hasher
from wbfs.model.entries import Entry
from wbfs.remote.http.bodies import Piece
from wbfs.remote.http.transport import Deadline
from wbfs.store.content.large_blob import check_content, write_fully


def fetch_straight(
    opener: Opener,
    entry: Entry,
    fd: int,
    *,
    path: str,
    deadline: Deadline,
    note: Callable[[int], None],
) -> None:
    """Write an entry's bytes to the open file `fd`, checked.

    `path` is for messages; `note` is told of the bytes of each piece. Raises WbfsError, and OSError
    where the file can't be written.
    """

    def fetch_once() -> None:
        hasher = new_hasher(entry.digest.algorithm) if entry.digest else None

        def write(offset: int, piece: Piece) -> None:
            if hasher:
                hasher.update(piece)
            write_fully(fd, piece, offset)
            note(len(piece))

        os.ftruncate(fd, 0)
        transfer(opener, entry, write, path=path, deadline=deadline)
        check_content(entry.blob, os.fstat(fd).st_size, hasher.hexdigest() if hasher else None)

    twice_if_wrong(fetch_once, opener, entry, path=path)

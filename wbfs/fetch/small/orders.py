"""What a process apart is told of the small files that it fetches, and what it says of them.

Tuples, of what is sent for each file: they are pickled in a fraction of the time.
"""

from __future__ import annotations

from typing import NamedTuple

from wbfs.model.entries import Entry
from wbfs.store.content.blobs import Known


class Order(NamedTuple):
    """A file to fetch. Without a URL it is a reference, and its bytes are where that says.

    `by_gateway` tells whether a gateway is asked first. `path` is for messages; what `is_unread` is
    the first to be evicted, until it is opened; what `was_wrong` came with wrong bytes once. A URL
    is a secret.
    """

    path: str
    entry: Entry
    url: str
    by_gateway: bool
    is_unread: bool
    was_wrong: bool = False


class Done(NamedTuple):
    """How it went: the file, unless it is gone already, and what there is to say of the gateway.

    That is whether bytes came by it, or why it was left alone, if it was.
    """

    known: Known | None
    by_gateway: bool = False
    gateway_trouble: str = ""

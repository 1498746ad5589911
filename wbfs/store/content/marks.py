"""What the names and times of cached files say of them, beside what is in them."""

from __future__ import annotations

import os

OURS_NS = 1
"""The nanoseconds of the time of modification of what is safely on disk."""
THE_SDKS_NS = 2
"""The same for what the SDK's cache had first: it is the SDK's to remove."""
SECOND_NS = 10**9
BLOCK_BYTES = 512
"""What `stat` counts the blocks of a file in."""
UNREAD_NS = 0
"""The time of the last use of what was prefetched and that nobody has opened yet."""
MAP_SUFFIX = ".map"
"""The end of the name of what tells which extents a large blob holds so far."""


def is_marked(found: os.stat_result) -> bool:
    """Whether a sealed blob is known to be safely on disk, by what `stat` says of it."""
    return has_mark(found.st_mtime_ns)


def has_mark(mtime_ns: int) -> bool:
    """Whether a time of modification tells of it."""
    return mtime_ns % SECOND_NS in (OURS_NS, THE_SDKS_NS)


def is_the_sdks(found: os.stat_result) -> bool:
    """Whether a cached file is also the SDK's, which had it first, by what `stat` says of it."""
    return found.st_nlink > 1 and found.st_mtime_ns % SECOND_NS == THE_SDKS_NS

"""What was fetched and served since the start."""

from __future__ import annotations

from dataclasses import dataclass

AT_ONCE_S = 0.002
"""Seconds that a read of what is here takes at most, unless the machine is busy."""


@dataclass(slots=True)
class Counters:
    """Sizes in bytes; `fetched_bytes` grows as they come, files count once they are whole.

    Of all `reads` those that were not answered at once waited, for `waited_s` seconds in all.
    What was prefetched is among what was fetched. It counts as used once it is opened, and as
    wasted once it is removed from the cache before that. What was served came `from_memory` where
    the kernel had the cache's file there, or else from the disk. `opened_here` are files that were
    in the cache when they were opened.
    """

    fetched_bytes: int = 0
    fetched_files: int = 0
    failed_fetches: int = 0
    served_bytes: int = 0
    from_memory_bytes: int = 0
    opened_files: int = 0
    opened_here: int = 0
    reads: int = 0
    waited_reads: int = 0
    waited_s: float = 0.0
    prefetched_files: int = 0
    prefetched_bytes: int = 0
    used_files: int = 0
    used_bytes: int = 0
    wasted_bytes: int = 0
    failed_prefetches: int = 0

    def note_read(self, seconds: float) -> None:
        """Note that a read was answered, and how long it took."""
        self.reads += 1
        if seconds > AT_ONCE_S:
            self.waited_reads += 1
            self.waited_s += seconds

    def note_wasted(self, size: int) -> None:
        """Note that `size` bytes were removed that nobody has used; one thread at a time."""
        self.wasted_bytes += size

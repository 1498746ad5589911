"""What was fetched and served since the start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Sizes in bytes; `fetched_bytes` grows as they come, files count once they are whole.

    What was prefetched is among what was fetched. It counts as used once it is opened, and as
    wasted once it is removed from the cache before that.
    """

    fetched_bytes: int = 0
    fetched_files: int = 0
    failed_fetches: int = 0
    served_bytes: int = 0
    prefetched_files: int = 0
    prefetched_bytes: int = 0
    used_files: int = 0
    used_bytes: int = 0
    wasted_bytes: int = 0
    failed_prefetches: int = 0

    def note_wasted(self, size: int) -> None:
        """Note that `size` bytes were removed that nobody has used; one thread at a time."""
        self.wasted_bytes += size

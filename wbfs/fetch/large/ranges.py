"""Which servers send the parts of a file that they are asked for, and which all of it. Trio thread.

What a server did is believed for a while: it may have been a proxy on the way.
"""

from __future__ import annotations

import trio

from wbfs.model.entries import ARTIFACT_SCHEME
from wbfs.model.lately import Lately

BELIEVED_S = 600.0
MOST_SERVERS = 1000


class RangeHabits:
    """What was seen of servers, by their names."""

    def __init__(self) -> None:
        self._seen: Lately[str, tuple[bool, float]] = Lately(MOST_SERVERS)

    def note(self, origin: str | None, *, sends_parts: bool) -> None:
        """Take note of what a server has just done, if it is known which one it is."""
        if origin in (None, ARTIFACT_SCHEME):
            return
        self._seen.put(str(origin), (sends_parts, trio.current_time() + BELIEVED_S))

    def sends_parts(self, origin: str | None) -> bool | None:
        """Whether a server sends parts, None where that isn't known."""
        sends_parts, until = self._seen.get(str(origin)) or (None, 0.0)
        return sends_parts if trio.current_time() < until else None

"""What getting many files has in common: how far it is, what failed, and when to give up."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from wbfs.fetch.counters import Counters
from wbfs.model.entries import Entry
from wbfs.model.errors import AccessDenied, RemoteError, WbfsError
from wbfs.remote.bytes import ObjectMissing

LARGE_FILES_AT_ONCE = 4
"""Large files that are fetched at the same time, each over several connections."""
FAILURES_IN_A_ROW = 64
"""Files in a row that the server doesn't give, after which no more are asked for."""
FAILURES_NAMED = 100
"""Failures that are kept in words; the rest are counted."""


@dataclass(slots=True)
class FileCounts:
    """Sizes in bytes; `files` and `bytes` are to come to all that is meant, and do once counted.

    `errors` says why files failed, of the first of them.
    """

    files: int = 0
    bytes: int = 0
    is_counted: bool = False
    done_bytes: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)


class ManyFiles:
    """Files that are got until there are no more, or until it is futile. Trio thread."""

    tally: FileCounts

    def __init__(self, counters: Counters, *, full: type[WbfsError]) -> None:
        """Take the session's counters; `full` is the error of a full disk."""
        self._counters = counters
        self._full = full
        self._failures_in_a_row = 0
        self._fetched_of_done = 0
        self._fetched_before = counters.fetched_bytes
        self._scope = trio.CancelScope()
        self.gave_up: WbfsError | None = None

    @property
    def fetched_bytes(self) -> int:
        """What has come over the network so far."""
        return self._counters.fetched_bytes - self._fetched_before

    @property
    def position(self) -> int:
        """The bytes of files that are done, and of those under way what has come of them."""
        under_way = self.fetched_bytes - self._fetched_of_done
        return min(self.tally.done_bytes + under_way, self.tally.bytes)

    def _settle_bytes(self, size: int) -> None:
        """Note that `size` bytes are done; as far as any have come, they are those."""
        self.tally.done_bytes += size
        self._fetched_of_done = min(self._fetched_of_done + size, self.fetched_bytes)

    def _fail(self, path: str, reason: str) -> None:
        """Note that a file failed."""
        self.tally.failed += 1
        if len(self.tally.errors) < FAILURES_NAMED:
            self.tally.errors.append(reason if path in reason else f"{path}: {reason}")

    def _give_up_if_futile(self, entry: Entry, error: WbfsError) -> None:
        """End it where all that is left would fail for the same reason."""
        if isinstance(error, AccessDenied | RemoteError) and not isinstance(error, ObjectMissing):
            # What other servers say of their references tells nothing of W&B's.
            self._failures_in_a_row += entry.reference is None
        if isinstance(error, self._full) or self._failures_in_a_row >= FAILURES_IN_A_ROW:
            self._give_up(error)

    def _give_up(self, error: WbfsError) -> None:
        self.gave_up = error
        self._scope.cancel()

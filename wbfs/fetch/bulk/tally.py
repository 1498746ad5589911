"""How far getting many files is, which failed, and when it is futile to go on. Trio thread."""

from __future__ import annotations

from collections.abc import Iterable

from wbfs.fetch.counters import Counters
from wbfs.model.entries import Entry
from wbfs.model.errors import AccessDenied, Defect, NotFound, RemoteError, StoreError, WbfsError
from wbfs.remote.http.bytes import ObjectMissing

FAILURES_IN_A_ROW = 64
"""Files in a row that can't be had, after which no more are asked for."""
FAILURES_NAMED = 100
"""Failures that are kept in words; the rest are counted."""


class Tally:
    """The counts of one run; sizes in bytes.

    `files` and `bytes` are to come to all that is meant, and do once `is_counted`. A file is either
    `right` (where it belongs before it was its turn), `got`, `missing` (a reference's object, where
    that is allowed) or `failed`; `defects` of those failed by a defect of wbfs. `errors` says why
    files failed, of the first of them. `gave_up` is why the others were not tried.
    """

    def __init__(self, counters: Counters, *, full: type[WbfsError]) -> None:
        """Take the session's counters; `full` is the error of a full disk."""
        self._counters = counters
        self._fetched_before = counters.fetched_bytes
        self._full = full
        self._failures_in_a_row = 0
        self._done_bytes = 0
        self._fetched_of_done = 0
        self.files = 0
        self.bytes = 0
        self.is_counted = False
        self.right = 0
        self.got = 0
        self.missing = 0
        self.failed = 0
        self.defects = 0
        self.errors: list[str] = []
        self.gave_up: WbfsError | None = None

    @property
    def done(self) -> int:
        """The files that nothing more happens to."""
        return self.right + self.got + self.missing + self.failed

    @property
    def is_complete(self) -> bool:
        """Whether nothing failed, and nothing was given up."""
        return not self.failed and self.gave_up is None

    @property
    def fetched_bytes(self) -> int:
        """What has come over the network so far."""
        return self._counters.fetched_bytes - self._fetched_before

    @property
    def position(self) -> int:
        """The bytes of files that are done, and of those under way what has come of them."""
        under_way = self.fetched_bytes - self._fetched_of_done
        return min(self._done_bytes + under_way, self.bytes)

    def note_right(self, entries: Iterable[Entry]) -> None:
        """Note files that were where they belong already."""
        for entry in entries:
            self.right += 1
            self._done_bytes += entry.size or 0

    def note_got(self, entry: Entry, size: int, *, was_right: bool) -> None:
        """Note that a file of `size` bytes is where it belongs now, or turned out to be before."""
        self._failures_in_a_row = 0
        self.right += was_right
        self.got += not was_right
        if entry.size is None:
            self.bytes += size
        self._settle(size)

    def note_missing(self, entry: Entry) -> None:
        """Note that a reference's object is gone, where that is allowed."""
        self.missing += 1
        self._settle(entry.size or 0)

    def note_failed(self, entry: Entry, error: WbfsError) -> None:
        """Note that a file failed, and give up where all that is left would fail like it."""
        self.failed += 1
        self.defects += isinstance(error, Defect)
        self._say(entry.path, str(error))
        self._settle(entry.size or 0)
        self._failures_in_a_row += _is_of_all(entry, error)
        if isinstance(error, self._full) or self._failures_in_a_row >= FAILURES_IN_A_ROW:
            self.gave_up = self.gave_up or error

    def note_left_out(self, named: Iterable[tuple[str, str]], unnamed: int) -> None:
        """Note files that a manifest has and nobody can get: paths with the reason, and others."""
        for path, why in named:
            self.files += 1
            self.failed += 1
            self._say(path, f"{why}, so that it can't be written")
        self.files += unnamed
        self.failed += unnamed

    def _say(self, path: str, reason: str) -> None:
        if len(self.errors) < FAILURES_NAMED:
            self.errors.append(reason if path in reason else f"{path}: {reason}")

    def _settle(self, size: int) -> None:
        """Note that `size` bytes are done; as far as any have come, they are those."""
        self._done_bytes += size
        self._fetched_of_done = min(self._fetched_of_done + size, self.fetched_bytes)


def _is_of_all(entry: Entry, error: WbfsError) -> bool:
    """Whether an error may be the server's or the cache's, rather than one file's."""
    if isinstance(error, StoreError):
        return True
    # What other servers say of their references tells nothing of W&B's.
    is_servers = isinstance(error, AccessDenied | NotFound | RemoteError)
    return is_servers and entry.reference is None and not isinstance(error, ObjectMissing)

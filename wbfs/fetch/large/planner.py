"""Which bytes of a large file to ask for, seen from the reads of it. Pure: no I/O.

A read far from the others starts a run of its own. Several runs go on side by side, as interleaved
readers make them. How far a run is fetched ahead of, upwards or downwards, follows what was seen:

- Of runs that came as far as this one and are over, half went so far: that far, and at once. So a
  program that maps a model and takes tensors here and there has the rest of each with its first
  pages, and little of what lies behind.
- No such runs: in a window that grows with what was delivered. The kernel's own read-ahead is no
  sign of more: its requests for a window come together, and in any order.
- Never so far that what was fetched ahead and nobody has read since, of this run and of those that
  went elsewhere, is more than `SPARE` and a share of what was read.

What FUSE is asked for is more than a program wants: a page fault in a mapped file brings the
kernel's whole `read_ahead_kb`, half of it before the page, and nothing tells it from a read.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from wbfs.model.extents import Extents

FIRST = 256 << 10
"""Bytes that a first read fetches; one of more bytes fetches its own."""
SEGMENT = 16 << 20
"""Bytes of one request at most."""
SMALLEST_SEGMENT = 1 << 20
"""Bytes of one request ahead of a reader at least: what a link brings in about the time that a
request takes to reach the server."""
ABREAST = 8
"""Requests that a window is cut into, so that a short one is fetched in parallel too."""
LARGEST_WINDOW = 128 << 20
GROWTH = 4
"""A run's window, as a multiple of what was delivered of it."""
SPARE = 32 << 20
"""Bytes of a file that may be fetched ahead for nothing, whatever was read."""
SHARE = 4
"""Bytes that have to be read for each one more."""
TAIL = 512 << 10
"""Bytes before a file's end that are fetched with a first read close to it: indexes stand there,
and are read from the end backwards."""
NEAR = 4 << 20
"""How far from a run's end a read may begin and still go on with it, once the run is as long."""
RUNS = 64
"""Runs in one file that are remembered."""
ENOUGH = 3
"""Runs that are over from which is judged how far another will go."""


@dataclass(eq=False, slots=True)
class _Run:
    """Bytes read one after another; [start, stop) was read, [ahead_start, ahead_stop) asked for.

    `begun` is how many runs there were when it was last read; `is_new` until it goes on.
    """

    start: int
    stop: int
    ahead_start: int
    ahead_stop: int
    begun: int
    is_new: bool = True
    delivered: int = 0

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def near(self) -> int:
        return min(max(self.length, FIRST), NEAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a read leads to.

    `stop` is where the fetch of its own bytes should end, should they be missing. `ahead` are
    extents that nobody waits for yet, the most urgent first. `in_order` tells that the read goes on
    with an earlier one, whose bytes are on their way.
    """

    stop: int
    ahead: tuple[tuple[int, int], ...] = ()
    in_order: bool = False


class ReadAhead:
    """The runs in one file of `size` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._runs: list[_Run] = []
        self._begun = 0
        # How long those were that are over, in order.
        self._lengths: list[int] = []
        self._read = Extents()
        # Asked for ahead of a reader, and not read since.
        self._unread = Extents()

    def plan(self, offset: int, size: int) -> Plan:
        """Take note of a read of `size` bytes at `offset` and return what it leads to."""
        stop = min(offset + size, self._size)
        self._read.add(offset, stop)
        self._unread.remove(offset, stop)
        plan = self._plan(offset, stop)
        for extent in plan.ahead:
            for gap in self._read.missing(*extent):
                self._unread.add(*gap)
        return plan

    def delivered(self, offset: int, size: int) -> None:
        """Take note that the bytes of a read were delivered."""
        for run in self._runs:
            if run.start <= offset < run.stop:
                run.delivered += size

    def _plan(self, offset: int, stop: int) -> Plan:
        for index in reversed(range(len(self._runs))):
            run = self._runs[index]
            upwards = abs(offset - run.stop) <= run.near and offset >= run.start
            downwards = abs(stop - run.start) <= run.near and offset < run.start
            if upwards or downwards:
                # The least recently used run is the first.
                self._runs.append(self._runs.pop(index))
                run.begun = self._begun
                run.is_new = False
                run.start = min(run.start, offset)
                run.stop = max(run.stop, stop)
                self._take_in(run)
                if downwards:
                    return Plan(stop=stop, ahead=self._downwards(run), in_order=True)
                ahead = self._upwards(run)
                own_stop = max(stop, min(run.ahead_stop, offset + SEGMENT))
                return Plan(stop=own_stop, ahead=ahead, in_order=True)
        return self._begin(offset, stop)

    def _take_in(self, run: _Run) -> None:
        """Have a run be one with those that it came to and that have not gone on."""
        for other in self._runs[:-1]:
            if other.is_new and other.start <= run.stop and run.start <= other.stop:
                run.start = min(run.start, other.start)
                run.stop = max(run.stop, other.stop)
                run.delivered += other.delivered
                self._runs.remove(other)

    def _begin(self, offset: int, stop: int) -> Plan:
        # Those that go on beside others have been read since the last one began.
        self._lengths = sorted(run.length for run in self._runs if run.begun < self._begun)
        self._begun += 1
        own_stop = min(max(stop, offset + FIRST), self._size)
        run = _Run(
            start=offset, stop=stop, ahead_start=offset, ahead_stop=own_stop, begun=self._begun
        )
        before = self._runs[-1] if self._runs else run
        self._runs.append(run)
        del self._runs[:-RUNS]
        if own_stop == self._size and offset > self._size - TAIL:
            run.ahead_start = max(0, self._size - TAIL)
            return Plan(stop=own_stop, ahead=tuple(segments(run.ahead_start, offset)))
        if before.is_new and before.stop < offset and self._is_usual(stop - before.start):
            # Who copies out of a mapped file touches both ends first: memcpy does.
            return Plan(stop=own_stop, ahead=self._upwards(before, offset))
        return Plan(stop=own_stop, ahead=self._upwards(run))

    def _upwards(self, run: _Run, end: int | None = None) -> tuple[tuple[int, int], ...]:
        """Return what is to be asked for behind a run, up to `end` if given, and note it."""
        run.ahead_stop = start = max(run.ahead_stop, run.stop)
        window = self._window(run) if end is None else end - run.stop
        size, segment = self._more(window, start - run.stop, self._size - start)
        run.ahead_stop += size
        return tuple(segments(start, start + size, segment))

    def _downwards(self, run: _Run) -> tuple[tuple[int, int], ...]:
        """Return what is to be asked for before a run, and note it."""
        run.ahead_start = stop = min(run.ahead_start, run.start)
        size, segment = self._more(self._window(run), run.start - stop, stop)
        run.ahead_start -= size
        return tuple(reversed(segments(stop - size, stop, segment)))

    def _window(self, run: _Run) -> int:
        """Return how far ahead of a run it is worth to fetch."""
        # What the kernel reads around a page makes like runs differ.
        alike = bisect_left(self._lengths, run.length * 3 // 4)
        if len(self._lengths) - alike >= ENOUGH:
            usual = self._lengths[(alike + len(self._lengths)) // 2]
            return max(usual - run.length, 0)
        return GROWTH * run.delivered

    def _is_usual(self, length: int) -> bool:
        """Whether enough runs were about that long."""
        alike = bisect_left(self._lengths, length * 3 // 4)
        return bisect_left(self._lengths, length * 4 // 3) - alike >= ENOUGH

    def _more(self, window: int, lead: int, rest: int) -> tuple[int, int]:
        """Return how many bytes to ask for, and in requests of how many.

        Of a window `lead` bytes were asked for before, and `rest` bytes are left.
        """
        spare = max(SPARE + self._read.total // SHARE - self._unread.total, 0)
        window = min(window, LARGEST_WINDOW, lead + spare)
        # A power of two, so that many windows are asked for in whole ones.
        segment = 1 << (window // ABREAST).bit_length() >> 1
        segment = min(max(segment, SMALLEST_SEGMENT), SEGMENT)
        size = window - lead
        if size >= rest:
            return rest, segment
        # In good time, and not for a few bytes each time.
        if size < min(window // 2, segment):
            return 0, segment
        return size - size % segment if lead and size > segment else size, segment


def segments(start: int, stop: int, size: int = SEGMENT) -> list[tuple[int, int]]:
    """Cut an extent into pieces of `size` bytes at most."""
    return [(at, min(at + size, stop)) for at in range(start, stop, size)]

"""Which bytes of a large file to ask for, seen from the reads of it. Pure: no I/O.

A read far from the others starts a run of its own and fetches little. A run that goes on, upwards
or downwards, once its first bytes were delivered is fetched ahead of, in a window that grows with
what was delivered. The kernel's own read-ahead is no sign of that: its requests for a window come
together, and in any order. Several runs go on side by side, as interleaved readers make them.

Of a file whose parts are known a run is fetched ahead of to its part's end, and that at its first
read, since programs read parts whole and skip others. Only one that has read on through several is
fetched ahead of beyond, by as many as it has passed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

FIRST = 256 << 10
"""Bytes that a first read fetches; one of more bytes fetches its own."""
SEGMENT = 8 << 20
"""Bytes of one request at most; its multiples are where requests begin and end."""
LARGEST_WINDOW = 128 << 20
"""Bytes that are fetched ahead at most: on as many connections as one server has for that."""
GROWTH = 4
"""A run's window, as a multiple of what was delivered of it."""
TAIL = 512 << 10
"""Bytes before a file's end that are fetched with a first read close to it: indexes stand there,
and are read from the end backwards."""
NEAR = 4 << 20
"""How far from a run's end a read may begin and still go on with it, once the run is as long."""
NEAR_BY_PARTS = 512 << 10
"""The same in a file of parts, which are skipped: the kernel's requests come in any order."""
WHOLE_PART = 8 << 20
"""Bytes of a part that is fetched at its first read; of a larger one a program may want less."""
PIECE = 1 << 20
"""Bytes of one request for a part that a reader waits for: several come side by side."""
PAGE = 4096
RUNS = 64
"""Runs in one file that are remembered."""


@dataclass(slots=True)
class _Run:
    """Bytes read one after another; [start, stop) was read, [ahead_start, ahead_stop) asked for.

    `part` is the furthest that a read is of; `is_in_part` tells that a program reads there, and not
    just the kernel, which asks ahead for as much again as was read, in one request.
    """

    start: int
    stop: int
    ahead_start: int
    ahead_stop: int
    part: int
    first_part: int
    is_in_part: bool = True
    delivered: int = 0

    @property
    def window(self) -> int:
        return min(GROWTH * self.delivered, LARGEST_WINDOW)

    @property
    def near(self) -> int:
        return min(max(self.stop - self.start, FIRST), NEAR)


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
        self._parts: Sequence[tuple[int, int]] = ()
        self._near = NEAR

    def divide(self, parts: Sequence[tuple[int, int]]) -> None:
        """Take note of the file's parts: extents in order, without a gap, of all of the file."""
        self._parts = parts
        self._near = NEAR_BY_PARTS
        self._runs.clear()

    def plan(self, offset: int, size: int) -> Plan:
        """Take note of a read of `size` bytes at `offset` and return what it leads to."""
        stop = min(offset + size, self._size)
        part = self._part_of(offset, stop)
        for index in reversed(range(len(self._runs))):
            run = self._runs[index]
            near = min(run.near, self._near)
            upwards = abs(offset - run.stop) <= near and offset >= run.start
            downwards = abs(stop - run.start) <= near and offset < run.start
            if upwards or downwards:
                # The least recently used run is the first.
                self._runs.append(self._runs.pop(index))
                if part >= run.part:
                    run.is_in_part = offset - self._start_of(part) >= stop - offset
                    run.part = part
                return self._go_on(run, offset, stop, upwards=upwards)
        return self._begin(offset, stop, part)

    def delivered(self, offset: int, size: int) -> None:
        """Take note that the bytes of a read were delivered."""
        for run in self._runs:
            if run.start <= offset < run.stop:
                run.delivered += size

    def _part_of(self, offset: int, stop: int) -> int:
        """Return which part a read is of: the kernel reads around the page that a mapping misses.

        In a page of two parts it is the second one's beginning, unless the first is being read.
        """
        page = (offset + stop) // 2 // PAGE * PAGE
        first, second = (
            bisect_right(self._parts, byte, key=itemgetter(0)) - 1
            for byte in (page, page + PAGE - 1)
        )
        is_first = first == second or any(run.part == first for run in self._runs)
        return first if is_first else second

    def _start_of(self, part: int) -> int:
        return self._parts[part][0] if self._parts else 0

    def _reach(self, run: _Run) -> int:
        """Return how far a run may be fetched ahead of, upwards."""
        if not self._parts:
            return self._size
        passed = run.part - run.first_part
        if passed == 1 and not run.is_in_part:
            return run.stop
        return self._parts[min(run.part + max(0, passed - 1), len(self._parts) - 1)][1]

    def _begin(self, offset: int, stop: int, part: int) -> Plan:
        own_stop = min(max(stop, offset + FIRST), self._size)
        ahead_start = offset
        if own_stop == self._size and offset > self._size - TAIL:
            ahead_start = max(0, self._size - TAIL)
        ahead = segments(ahead_start, offset)
        ahead_stop = own_stop
        if self._parts:
            start, end = self._parts[part]
            if end - start <= WHOLE_PART:
                ahead = [*segments(own_stop, end, PIECE), *segments(start, offset, PIECE)]
                ahead_start, ahead_stop = min(start, offset), max(end, own_stop)
        run = _Run(
            start=offset,
            stop=stop,
            ahead_start=ahead_start,
            ahead_stop=ahead_stop,
            part=part,
            first_part=part,
        )
        self._runs.append(run)
        del self._runs[:-RUNS]
        return Plan(stop=own_stop, ahead=tuple(ahead))

    def _go_on(self, run: _Run, offset: int, stop: int, *, upwards: bool) -> Plan:
        run.start = min(run.start, offset)
        run.stop = max(run.stop, stop)
        window = run.window
        if upwards:
            reach = self._reach(run)
            target = min(run.stop + window, reach)
            # In good time, and not for a few bytes each time.
            if target < reach and target - run.ahead_stop < min(window // 2, SEGMENT):
                ahead = []
            else:
                start = max(run.ahead_stop, run.stop)
                boundary = target - target % SEGMENT
                if window > SEGMENT and start < boundary and target < self._size:
                    # Beyond it two requests would be made of the next one.
                    target = boundary
                ahead = segments(start, target)
            run.ahead_stop = max(run.ahead_stop, run.stop, *(stop for _, stop in ahead))
            own_stop = min(max(stop, run.ahead_stop), _next_boundary(offset))
            return Plan(stop=max(stop, own_stop), ahead=tuple(ahead), in_order=True)
        reach = self._parts[run.part][0] if self._parts else 0
        target = min(max(run.start - window, reach), run.start)
        if target > reach and run.ahead_start - target < min(window // 2, SEGMENT):
            return Plan(stop=stop, in_order=True)
        stop_ahead = min(run.ahead_start, offset)
        boundary = _next_boundary(target - 1)
        if window > SEGMENT and boundary < stop_ahead:
            target = boundary
        ahead = segments(target, stop_ahead)
        run.ahead_start = min(run.ahead_start, target)
        return Plan(stop=stop, ahead=tuple(reversed(ahead)), in_order=True)


def _next_boundary(offset: int, size: int = SEGMENT) -> int:
    return (offset // size + 1) * size


def segments(start: int, stop: int, size: int = SEGMENT) -> list[tuple[int, int]]:
    """Cut an extent at the multiples of a size."""
    segments = []
    while start < stop:
        end = min(stop, _next_boundary(start, size))
        segments.append((start, end))
        start = end
    return segments

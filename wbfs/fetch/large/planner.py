"""Which bytes of a large file to ask for, seen from the reads of it. Pure: no I/O.

A read far from the others starts a run of its own and fetches little. A run that goes on, upwards
or downwards, once its first bytes were delivered is fetched ahead of, in a window that grows with
what was delivered. The kernel's own read-ahead is no sign of that: its requests for a window come
together, and in any order. Several runs go on side by side, as interleaved readers make them.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 256 << 10
"""Bytes that a first read fetches; one of more bytes fetches its own."""
SEGMENT = 16 << 20
"""Bytes of one request at most; its multiples are where requests begin and end."""
LARGEST_WINDOW = 128 << 20
GROWTH = 4
"""A run's window, as a multiple of what was delivered of it."""
TAIL = 512 << 10
"""Bytes before a file's end that are fetched with a first read close to it: indexes stand there,
and are read from the end backwards."""
NEAR = 4 << 20
"""How far from a run's end a read may begin and still go on with it, once the run is as long."""
RUNS = 64
"""Runs in one file that are remembered."""


@dataclass(slots=True)
class _Run:
    """Bytes read one after another; [start, stop) was read, [ahead_start, ahead_stop) asked for."""

    start: int
    stop: int
    ahead_start: int
    ahead_stop: int
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

    def plan(self, offset: int, size: int) -> Plan:
        """Take note of a read of `size` bytes at `offset` and return what it leads to."""
        stop = min(offset + size, self._size)
        for index in reversed(range(len(self._runs))):
            run = self._runs[index]
            upwards = abs(offset - run.stop) <= run.near and offset >= run.start
            downwards = abs(stop - run.start) <= run.near and offset < run.start
            if upwards or downwards:
                # The least recently used run is the first.
                self._runs.append(self._runs.pop(index))
                return self._go_on(run, offset, stop, upwards=upwards)
        return self._begin(offset, stop)

    def delivered(self, offset: int, size: int) -> None:
        """Take note that the bytes of a read were delivered."""
        for run in self._runs:
            if run.start <= offset < run.stop:
                run.delivered += size

    def _begin(self, offset: int, stop: int) -> Plan:
        own_stop = min(max(stop, offset + FIRST), self._size)
        ahead_start = offset
        if own_stop == self._size and offset > self._size - TAIL:
            ahead_start = max(0, self._size - TAIL)
        run = _Run(start=offset, stop=stop, ahead_start=ahead_start, ahead_stop=own_stop)
        self._runs.append(run)
        del self._runs[:-RUNS]
        return Plan(stop=own_stop, ahead=tuple(segments(ahead_start, offset)))

    def _go_on(self, run: _Run, offset: int, stop: int, *, upwards: bool) -> Plan:
        run.start = min(run.start, offset)
        run.stop = max(run.stop, stop)
        window = run.window
        if upwards:
            target = min(run.stop + window, self._size)
            # In good time, and not for a few bytes each time.
            if target < self._size and target - run.ahead_stop < min(window // 2, SEGMENT):
                ahead = []
            else:
                ahead = segments(max(run.ahead_stop, run.stop), target)
            run.ahead_stop = max(run.ahead_stop, run.stop, *(stop for _, stop in ahead))
            own_stop = min(max(stop, run.ahead_stop), _next_boundary(offset))
            return Plan(stop=max(stop, own_stop), ahead=tuple(ahead), in_order=True)
        target = max(run.start - window, 0)
        if target > 0 and run.ahead_start - target < min(window // 2, SEGMENT):
            return Plan(stop=stop, in_order=True)
        ahead = segments(target, min(run.ahead_start, offset))
        run.ahead_start = min(run.ahead_start, target)
        return Plan(stop=stop, ahead=tuple(reversed(ahead)), in_order=True)


def _next_boundary(offset: int) -> int:
    return (offset // SEGMENT + 1) * SEGMENT


def segments(start: int, stop: int) -> list[tuple[int, int]]:
    """Cut an extent at the multiples of SEGMENT."""
    segments = []
    while start < stop:
        end = min(stop, _next_boundary(start))
        segments.append((start, end))
        start = end
    return segments

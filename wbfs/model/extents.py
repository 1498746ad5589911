"""A set of byte positions, as the disjoint half-open extents that it is made of."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Extents:
    """Bytes of one blob: iterates as (start, stop) pairs in order, which neither touch nor overlap.

    Adding, removing and asking cost the logarithm of the number of extents, plus a shift of the list.
    """

    def __init__(self, extents: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.total = 0
        """How many bytes it has."""
        for start, stop in extents:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def add(self, start: int, stop: int) -> None:
        """Add the bytes from `start` to before `stop`."""
        if start >= stop:
            return
        # All extents that touch the new one melt into it.
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self.total += stop - start - self._size(first, last)
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """Take out what it has of the bytes from `start` to before `stop`."""
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last or start >= stop:
            return
        before = (self._starts[first], start)
        after = (stop, self._stops[last - 1])
        left = [(begin, end) for begin, end in (before, after) if begin < end]
        self.total -= self._size(first, last) - sum(end - begin for begin, end in left)
        self._starts[first:last] = [begin for begin, _ in left]
        self._stops[first:last] = [end for _, end in left]

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the extents between `start` and `stop` that are not in it."""
        gaps = []
        for index in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[index] >= stop:
                break
            if start < self._starts[index]:
                gaps.append((start, self._starts[index]))
            start = max(start, self._stops[index])
        if start < stop:
            gaps.append((start, stop))
        return gaps

    def _size(self, first: int, last: int) -> int:
        return sum(self._stops[first:last]) - sum(self._starts[first:last])

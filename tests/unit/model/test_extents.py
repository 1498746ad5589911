"""Extents against a set of whole numbers, which is slow and plainly right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wbfs.model.extents import Extents

END = 60
ranges = st.tuples(st.integers(0, END), st.integers(0, END))


@given(st.lists(ranges, max_size=20), ranges)
def test_like_a_set(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    extents = Extents()
    expected: set[int] = set()
    for start, stop in added:
        extents.add(start, stop)
        expected |= set(range(start, stop))
    pairs = list(extents)
    assert {number for pair in pairs for number in range(*pair)} == expected
    assert all(start < stop for start, stop in pairs)
    assert all(before[1] < after[0] for before, after in zip(pairs, pairs[1:], strict=False))
    assert extents.total == len(expected)
    gaps = extents.missing(*asked)
    missing = [number for gap in gaps for number in range(*gap)]
    assert missing == sorted(set(range(*asked)) - expected)
    assert all(before[1] < after[0] for before, after in zip(gaps, gaps[1:], strict=False))
    assert list(Extents(pairs)) == pairs

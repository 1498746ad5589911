"""Read-ahead by the reads alone: grows with a run, keeps runs apart, and asks for no byte twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wbfs.fetch.large.planner import FIRST, LARGEST_WINDOW, SEGMENT, TAIL, Plan, ReadAhead
from wbfs.model.extents import Extents

KIB = 1 << 10
MIB = 1 << 20
SIZE = 1 << 30


def ahead_bytes(plan: Plan) -> int:
    return sum(stop - start for start, stop in plan.ahead)


def test_a_first_read_fetches_little() -> None:
    plan = ReadAhead(SIZE).plan(100 * MIB, 4096)
    assert plan == Plan(stop=100 * MIB + FIRST)
    assert ReadAhead(SIZE).plan(0, MIB).stop == MIB


def test_the_tail_is_fetched_with_the_last_bytes() -> None:
    plan = ReadAhead(SIZE).plan(SIZE - 8, 8)
    assert plan.stop == SIZE
    assert plan.ahead == ((SIZE - TAIL, SIZE - 8),)


def test_a_sequential_reader_is_fetched_ahead_of_ever_further() -> None:
    read_ahead = ReadAhead(SIZE)
    asked = Extents()
    lead = 0
    for offset in range(0, SIZE, 128 * KIB):
        plan = read_ahead.plan(offset, 128 * KIB)
        read_ahead.delivered(offset, 128 * KIB)
        assert plan.in_order is (offset > 0)
        for start, stop in plan.ahead:
            assert stop - start <= SEGMENT
            assert asked.missing(start, stop) == [(start, stop)]
            asked.add(start, stop)
        furthest = max((stop for _, stop in asked), default=0)
        if offset < SIZE - LARGEST_WINDOW:
            assert furthest - offset <= max(4 * offset, FIRST) + 128 * KIB
        lead = max(lead, furthest - offset)
    assert LARGEST_WINDOW - SEGMENT <= lead <= LARGEST_WINDOW + SEGMENT
    assert asked.missing(FIRST, SIZE) == []


def test_requests_are_whole_ones_once_the_window_is_large() -> None:
    # Each costs milliseconds of the processor's time, and is not to be cut in two.
    for reading in (range(0, SIZE, MIB), range(SIZE - MIB, -MIB, -MIB)):
        read_ahead = ReadAhead(SIZE)
        asked = []
        for offset in reading:
            asked += read_ahead.plan(offset, MIB).ahead
            read_ahead.delivered(offset, MIB)
        # All but those that it grows with, and that the file ends within.
        assert sum(stop - start == SEGMENT for start, stop in asked) >= SIZE // SEGMENT - 4
        assert len(asked) <= SIZE // SEGMENT + 12


def test_a_backward_reader_too() -> None:
    read_ahead = ReadAhead(SIZE)
    asked = Extents()
    for offset in range(SIZE // 2, SIZE // 4, -64 * KIB):
        for start, stop in read_ahead.plan(offset, 64 * KIB).ahead:
            assert asked.missing(start, stop) == [(start, stop)]
            asked.add(start, stop)
        read_ahead.delivered(offset, 64 * KIB)
    assert asked.missing(SIZE // 4, SIZE // 2 - FIRST) == []


def test_the_kernels_requests_for_one_window_are_no_sign_of_more() -> None:
    read_ahead = ReadAhead(SIZE)
    for offset in (0, MIB, 3 * MIB, 2 * MIB):
        assert read_ahead.plan(100 * MIB + offset, MIB).ahead == ()
    for offset in (0, MIB, 3 * MIB, 2 * MIB):
        read_ahead.delivered(100 * MIB + offset, MIB)
    # Four times what was delivered, to where the last whole request ends.
    assert 16 * MIB - SEGMENT < ahead_bytes(read_ahead.plan(104 * MIB, MIB)) <= 16 * MIB


def test_a_seek_starts_anew_and_the_run_before_it_goes_on() -> None:
    read_ahead = ReadAhead(SIZE)
    for offset in range(0, 32 * MIB, MIB):
        read_ahead.plan(offset, MIB)
        read_ahead.delivered(offset, MIB)
    assert read_ahead.plan(700 * MIB, 4096).ahead == ()
    assert not read_ahead.plan(900 * MIB, 4096).in_order
    plan = read_ahead.plan(32 * MIB, MIB)
    assert plan.in_order


def test_readers_that_take_turns_keep_their_windows() -> None:
    read_ahead = ReadAhead(SIZE)
    asked = Extents()
    for step in range(16):
        for start in range(0, SIZE, SIZE // 8):
            plan = read_ahead.plan(start + step * MIB, MIB)
            assert plan.in_order is (step > 0)
            read_ahead.delivered(start + step * MIB, MIB)
            for extent in plan.ahead:
                asked.add(*extent)
    assert asked.total >= 8 * 20 * MIB


reads = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, MIB)), min_size=1, max_size=50)


@given(reads)
def test_plans_keep_to_the_file_and_its_read(places: list[tuple[int, int]]) -> None:
    read_ahead = ReadAhead(SIZE)
    for offset, size in places:
        plan = read_ahead.plan(offset, size)
        read_ahead.delivered(offset, min(size, SIZE - offset))
        assert min(offset + size, SIZE) <= plan.stop <= min(SIZE, offset + max(size, SEGMENT))
        assert all(0 <= start < stop <= SIZE for start, stop in plan.ahead)
        assert ahead_bytes(plan) <= 2 * LARGEST_WINDOW

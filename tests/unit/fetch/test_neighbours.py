"""What is read next, seen from what was read: runs, random order, and how much may be ahead."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbfs.fetch.ahead.neighbours import AHEAD, NEAR, SAMPLE, Neighbours, Run

KIB = 1 << 10
FOLDER = 1
WASTE = 0.1


def read(neighbours: Neighbours, rows: Iterable[int], *, size: int = 8 * KIB) -> None:
    for row in rows:
        neighbours.note(row, FOLDER, size)


def going(neighbours: Neighbours) -> list[Run]:
    return [run for run, _ in neighbours.runs()]


@pytest.mark.parametrize("rows", [[], [7], [7, 7, 7], [7, 5000]])
def test_one_or_two_files_are_no_sign(rows: list[int]) -> None:
    neighbours = Neighbours()
    read(neighbours, rows)
    assert not neighbours.is_random
    assert going(neighbours) == []
    # Not even one file of the same size may be ahead.
    assert neighbours.credit < 8 * KIB


def test_two_files_side_by_side_give_no_credit_for_a_third() -> None:
    neighbours = Neighbours()
    read(neighbours, [7, 8])
    assert neighbours.credit < 8 * KIB


def test_a_run_is_ahead_of_its_reader_by_a_share_that_grows() -> None:
    neighbours = Neighbours()
    ahead = []
    for row in range(20_000):
        read(neighbours, [row])
        if row > NEAR:
            [(run, files)] = neighbours.runs()
            assert (run.last, run.files) == (row, row + 1)
            ahead.append(files)
    assert ahead == sorted(ahead)
    assert ahead[100] < 20
    assert ahead[-1] == AHEAD
    assert not neighbours.is_random


def test_the_same_file_again_is_not_read_again() -> None:
    neighbours = Neighbours()
    read(neighbours, [3, 4, 4, 4, 5, 5])
    assert (neighbours.read_files, neighbours.read_bytes) == (3, 3 * 8 * KIB)


def test_several_runs_go_on_side_by_side() -> None:
    neighbours = Neighbours()
    starts = range(0, 80_000, 10_000)
    for step in range(500):
        read(neighbours, (start + step for start in starts))
    assert not neighbours.is_random
    # The latest one first.
    assert [run.last for run in going(neighbours)] == [start + 499 for start in reversed(starts)]
    allowed = sum(files for _, files in neighbours.runs())
    assert 0 < allowed <= WASTE * neighbours.read_files


def test_threads_that_share_an_order_are_one_run() -> None:
    neighbours = Neighbours()
    numbers = random.Random(1)
    rows = sorted(range(2_000), key=lambda row: row + numbers.uniform(0, 4))
    read(neighbours, rows)
    assert not neighbours.is_random
    assert going(neighbours)[0].last >= 1_990


def test_a_run_goes_on_after_others_read_elsewhere() -> None:
    neighbours = Neighbours()
    read(neighbours, range(100))
    read(neighbours, [5_000, 9_000, 7_000])
    read(neighbours, range(100, 110))
    latest = going(neighbours)[0]
    assert (latest.last, latest.files) == (109, 110)
    assert not neighbours.is_random


@pytest.mark.parametrize("count", [200, 500, 1_000, 10_000, 1_000_000])
def test_random_order_is_recognised(count: int) -> None:
    for seed in range(10):
        neighbours = Neighbours()
        rows = random.Random(seed).sample(range(count), min(count, 1_000))
        recognised = []
        for row in rows:
            read(neighbours, [row])
            recognised.append(neighbours.is_random)
        assert not any(recognised[: SAMPLE // 2])
        # All but its beginning: within the first third of a folder's files, and then for good.
        assert any(recognised[: max(2 * SAMPLE, len(rows) // 10)])
        later = recognised[len(rows) // 3 :]
        assert sum(later) > 0.8 * len(later)


def test_more_is_ahead_the_longer_random_order_lasts() -> None:
    neighbours = Neighbours()
    rows = random.Random(1).sample(range(100_000), 2_000)
    read(neighbours, rows[:SAMPLE])
    after_little = neighbours.credit
    assert after_little <= neighbours.read_bytes
    read(neighbours, rows[SAMPLE:])
    assert neighbours.credit > 10 * neighbours.read_bytes


def test_order_after_random_order_is_recognised() -> None:
    neighbours = Neighbours()
    read(neighbours, random.Random(1).sample(range(100_000), 1_000))
    assert neighbours.is_random
    read(neighbours, range(200_000, 200_000 + 2 * SAMPLE))
    assert not neighbours.is_random
    assert neighbours.credit <= WASTE * neighbours.read_bytes
    assert going(neighbours)[0].last == 200_000 + 2 * SAMPLE - 1


def test_the_folders_are_those_of_the_latest_reads() -> None:
    neighbours = Neighbours()
    for row in range(SAMPLE):
        neighbours.note(row, 1, KIB)
    for row in range(SAMPLE, 2 * SAMPLE):
        neighbours.note(row, 2 + row % 2, KIB)
    assert neighbours.folders == {2, 3}


SIZES = st.lists(st.integers(1, 4 << 20), min_size=1, max_size=60)


@given(sizes=SIZES, first=st.integers(0, 10_000))
def test_a_reader_that_stops_anywhere_wastes_less_than_a_tenth(
    sizes: list[int], first: int
) -> None:
    neighbours = Neighbours()
    read_bytes = 0
    for offset, size in enumerate(sizes):
        neighbours.note(first + offset, FOLDER, size)
        read_bytes += size
        assert neighbours.credit < WASTE * read_bytes


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    size=st.integers(1, 200 * KIB),
)
def test_so_do_several_that_stop_one_after_another(
    lengths: list[int], order: random.Random, size: int
) -> None:
    neighbours = Neighbours()
    to_come = {number * 1_000: length for number, length in enumerate(lengths)}
    while to_come:
        start = order.choice(sorted(to_come))
        read(neighbours, [start + lengths[start // 1_000] - to_come[start]], size=size)
        to_come[start] -= 1
        if not to_come[start]:
            del to_come[start]
        assert not neighbours.is_random
        assert neighbours.credit < WASTE * neighbours.read_files * size


@given(rows=st.lists(st.integers(0, 300), max_size=200))
def test_what_goes_on_was_read(rows: list[int]) -> None:
    neighbours = Neighbours()
    read(neighbours, rows)
    seen = set(rows)
    for run, files in neighbours.runs():
        assert run.last in seen
        assert run.ahead >= run.last
        assert 1 <= files <= AHEAD
    assert neighbours.read_bytes == neighbours.read_files * 8 * KIB

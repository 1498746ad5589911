"""The parts of large files, and reading ahead by them: what is skipped is hardly fetched."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import header_of

from wbfs.fetch.large.layout import LARGEST_HEADER, header_stop, parts_of
from wbfs.fetch.large.planner import LARGEST_WINDOW, PIECE, SEGMENT, WHOLE_PART, ReadAhead
from wbfs.model.extents import Extents

KIB = 1 << 10
MIB = 1 << 20
PAGE = 4096
READ_AROUND = 512 * KIB


@given(st.lists(st.integers(1, 10 * MIB), max_size=50))
def test_parts_are_the_header_and_the_tensors(lengths: list[int]) -> None:
    header, size = header_of(lengths)
    assert header_stop(header[:100]) == len(header)
    parts = parts_of(header, size)
    assert parts[0] == (0, len(header))
    assert [stop - start for start, stop in parts[1:]] == lengths
    assert [start for start, _ in parts[1:]] == [stop for _, stop in parts[:-1]]
    assert parts[-1][1] == size


@given(st.binary(max_size=200))
def test_anything_else_has_no_parts(data: bytes) -> None:
    stop = header_stop(data)
    assert stop is None or data[8:9] == b"{"
    for header in (data, (len(data) - 8).to_bytes(8, "little", signed=True) + data[8:]):
        parts = parts_of(header, 1000)
        assert all(0 <= start < stop <= 1000 for start, stop in parts)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"data_offsets": [9999999, 10000000]}}',
        '{"a": {"data_offsets": [-100, 5]}}',
        '{"a": {"data_offsets": []}}',
        '{"a": {"data_offsets": "xy"}}',
        '{"a": [1]}',
        "[1, 2]",
        "{" * 100_000,
        '{"a": 1e999}',
    ],
)
def test_an_index_that_is_none_of_the_file_has_no_parts(text: str) -> None:
    header = len(text).to_bytes(8, "little") + text.encode()
    assert parts_of(header, len(header) + 1000) == []


def test_a_header_beyond_all_measure_is_not_read() -> None:
    assert header_stop((LARGEST_HEADER + 1).to_bytes(8, "little") + b"{") is None
    assert header_stop(b"") is None
    assert header_stop(bytes(9)) is None


class Mapping:
    """A program that maps a file, as the kernel reads for it: around each page that is missing."""

    def __init__(self, parts: list[tuple[int, int]], *, knows_parts: bool = True) -> None:
        self.size = parts[-1][1]
        self.pages = Extents()
        self.here = Extents()
        self.waits = 0
        self._runs = ReadAhead(self.size)
        if knows_parts:
            self._runs.divide(parts)

    def touch(self, byte: int) -> None:
        """Use a byte; what is planned is there by the next time."""
        page = byte // PAGE * PAGE
        if not self.pages.missing(page, min(page + PAGE, self.size)):
            return
        start = max(0, page - READ_AROUND // 2)
        stop = min(start + READ_AROUND, self.size)
        self.waits += self.fill(start, stop)

    def fill(self, start: int, stop: int) -> int:
        """Have the kernel ask for what it lacks; return how much of that was not there."""
        waits = 0
        for gap_start, gap_stop in self.pages.missing(start, stop):
            plan = self._runs.plan(gap_start, gap_stop - gap_start)
            if self.here.missing(gap_start, gap_stop):
                waits += 1
                self.here.add(gap_start, min(max(plan.stop, gap_stop), self.size))
            for ahead in plan.ahead:
                self.here.add(*ahead)
            self._runs.delivered(gap_start, gap_stop - gap_start)
        self.pages.add(start, stop)
        return waits

    def read(self, start: int, stop: int) -> None:
        """Copy bytes: their first page is touched, then their last, then all."""
        for byte in (start, stop - 1, *range(start, stop, PAGE)):
            self.touch(byte)

    @property
    def moved(self) -> int:
        return sum(stop - start for start, stop in self.here)


class MappingInOrder(Mapping):
    """A program whose processor copies in order: the kernel reads on, and ahead of it.

    Where a page is missing that follows on what was read last, it reads on; once the first of what
    it read on is used, as much again, for which nobody waits.
    """

    def __init__(self, parts: list[tuple[int, int]]) -> None:
        super().__init__(parts)
        self._next = self._marked = -1

    def touch(self, byte: int) -> None:
        """Use a byte."""
        page = byte // PAGE * PAGE
        if page == self._marked:
            self._marked = self._next
            self._read_on()
        elif self.pages.missing(page, min(page + PAGE, self.size)):
            if page == self._next:
                self._marked = page + PAGE
            else:
                self._next, self._marked = max(0, page - READ_AROUND // 2), -1
            self.waits += self._read_on()

    def _read_on(self) -> int:
        start = self._next
        self._next = min(start + READ_AROUND, self.size)
        return self.fill(start, self._next)

    def read(self, start: int, stop: int) -> None:
        """Copy bytes."""
        for byte in range(start, stop, PAGE):
            self.touch(byte)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.05, 0.1, 0.3]),
    typical=st.sampled_from([1 * MIB, 2 * MIB, 6 * MIB]),
    in_order=st.booleans(),
)
def test_tensors_that_are_skipped_are_hardly_fetched(
    seed: int, share: float, typical: int, in_order: bool
) -> None:
    chance = random.Random(seed)
    lengths = [int(typical * chance.uniform(0.6, 1.3)) for _ in range(200)]
    header, size = header_of(lengths)
    parts = parts_of(header, size)
    wanted = chance.sample(parts[1:], int(share * len(lengths)))
    if in_order:
        wanted.sort()
    program = Mapping(parts)
    for part in wanted:
        program.read(*part)
    assert program.moved <= 2 * sum(stop - start for start, stop in wanted)
    # Each is waited for once, and perhaps where its last page is; those side by side a little more.
    assert program.waits <= 2.5 * len(wanted)


@pytest.mark.parametrize("length", range(2 * MIB, 7 * MIB, 200 * KIB))
def test_what_the_kernel_reads_on_is_of_no_part_that_is_read(length: int) -> None:
    header, size = header_of([length] * 20)
    parts = parts_of(header, size)
    program = MappingInOrder(parts)
    wanted = [parts[number] for number in (4, 16, 8, 12, 20)]
    for part in wanted:
        program.read(*part)
    # What the kernel asks for, and no other part besides.
    assert program.moved <= sum(stop - start + 3 * READ_AROUND for start, stop in wanted)
    assert program.waits <= 2 * len(wanted)


@pytest.mark.parametrize("length", [20 * KIB, 300 * KIB, 2 * MIB, 40 * MIB])
@pytest.mark.parametrize("size_of_one", [128 * KIB, 512 * KIB])
def test_who_reads_all_of_a_file_is_fetched_ahead_of_far(length: int, size_of_one: int) -> None:
    header, size = header_of([length] * (600 * MIB // length))
    runs = ReadAhead(size)
    runs.divide(parts_of(header, size))
    asked = Extents()
    leads = []
    requests = list(range(0, size - size_of_one, size_of_one))
    # Two are on their way at a time, and come in any order.
    for first in range(0, len(requests) - 1, 2):
        for offset in (requests[first + 1], requests[first]):
            plan = runs.plan(offset, size_of_one)
            for start, stop in ((offset, plan.stop), *plan.ahead):
                asked.add(start, stop)
        for offset in requests[first : first + 2]:
            runs.delivered(offset, size_of_one)
        leads.append(max(stop for _, stop in asked) - requests[first])
    # Once some parts were read it is as far as anywhere.
    some = max(len(leads) // 10, 3 * length // size_of_one // 2)
    assert min(leads[some : 6 * len(leads) // 10]) >= 32 * MIB
    assert max(leads) <= LARGEST_WINDOW + 2 * SEGMENT


def test_little_is_fetched_of_a_large_part() -> None:
    header, size = header_of([500 * MIB, MIB])
    program = Mapping(parts_of(header, size))
    for row in range(20):
        program.touch(len(header) + row * 23 * MIB)
    assert program.moved <= 20 * READ_AROUND + len(header)
    assert WHOLE_PART < 500 * MIB
    assert PIECE < WHOLE_PART

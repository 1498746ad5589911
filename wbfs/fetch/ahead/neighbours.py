"""Which files of a version are likely read next, seen from those that were read. Pure: no I/O.

Files are known by their rows in the manifest, which are in the order of folders and names. A
program that reads row after row is a run; several may go on side by side. One that keeps reading
far from any run reads in random order, as a data loader does that shuffles: all files of the folder
that it reads in are its next ones, sooner or later.

What is fetched ahead and never read is waste. So there is a credit: of a run, a share of what was
read already, whatever stops it when; of random order, which nothing but a loader keeps up, more the
longer it lasts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

RUN_SHARE = 1 / 12
"""Bytes that may wait to be read, as a share of those that were: less than a tenth is wasted."""
NEAR = 8
"""Rows from a run's last one within which a read goes on with it: several threads, one order."""
SURE = 3
"""Files after which a run is one; until then only the next row goes on with it: in a small folder
most files are near some other that was read."""
RUNS = 16
"""Runs in one version that are remembered."""
SAMPLE = 32
"""Latest reads that random order is judged by."""
STRAYS = 24
"""How many of them have to be far from any run."""
DOUBLING = 32
"""Reads in random order after which as much may be ahead as was read; then ever more."""
AHEAD = 512
"""Files that a run may be ahead of its reader."""


@dataclass(slots=True)
class Run:
    """Files read one after another: the last row that was read, and that was asked for ahead."""

    last: int
    ahead: int
    files: int = 1

    def goes_on_with(self, row: int) -> bool:
        """Whether that row is the run's next one, or was read out of turn."""
        step = row - self.last
        return abs(step) <= NEAR if self.files > SURE else step in (0, 1)


class Neighbours:
    """What was read of one version. Sizes are bytes."""

    def __init__(self) -> None:
        # The latest one last.
        self._runs: list[Run] = []
        self._were_strays: deque[bool] = deque(maxlen=SAMPLE)
        self._strays = 0
        self._folders: deque[int] = deque(maxlen=SAMPLE)
        self.read_files = 0
        self.read_bytes = 0

    def note(self, row: int, folder: int, size: int) -> None:
        """Note that the file of that row, in the folder of that number, was read whole."""
        run = next((run for run in reversed(self._runs) if run.goes_on_with(row)), None)
        if run is not None and row == run.last:
            # The same file once more.
            return
        self.read_files += 1
        self.read_bytes += size
        if run is None:
            run = Run(row, row)
            self._runs = [*self._runs[-RUNS + 1 :], run]
            self._strays += 1
        else:
            self._runs.remove(run)
            self._runs.append(run)
            run.last = max(run.last, row)
            run.ahead = max(run.ahead, row)
            run.files += 1
        self._were_strays.append(run.files == 1)
        self._folders.append(folder)

    @property
    def is_random(self) -> bool:
        """Whether files are read in no order."""
        return sum(self._were_strays) >= STRAYS

    @property
    def folders(self) -> frozenset[int]:
        """The folders of the latest reads."""
        return frozenset(self._folders)

    @property
    def credit(self) -> int:
        """How many bytes may be here, or on their way, that nobody has read."""
        share = max(RUN_SHARE, self._strays / DOUBLING) if self.is_random else RUN_SHARE
        return int(self.read_bytes * share)

    def runs(self) -> Iterator[tuple[Run, int]]:
        """Yield the runs that go on, the latest first, and how many files may be ahead of each."""
        going = [run for run in reversed(self._runs) if run.files > 1]
        if going:
            files = int(self.credit * self.read_files / max(1, self.read_bytes))
            for run in going:
                yield run, min(AHEAD, max(1, files // len(going)))

"""The soak run itself; scripts/soak sets up what it needs and calls it."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median

import processes
from judge import Violation
from mounts import Mount
from steps import Steps
from world import World

SECONDS = 1800.0
SAMPLES, SAMPLE_EVERY_S = 60, 10.0
"""At least so many, and as often as that where the run is long."""
READERS = 3
MIB = 1 << 20
MAY_GROW = 1.10
"""A level: the median of the last third is at most so many times that of the second sixth.

In the first sixth, five minutes of half an hour, memory and threads come to where they stay. On top
of that, each quantity may grow by what is in `Sample`'s fields below.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a daemon and its processes take at one moment; sizes in MiB."""

    rss: float
    children_rss: float
    descriptors: int
    threads: int
    children: int


SPARE = Sample(rss=8.0, children_rss=8.0, descriptors=16, threads=8, children=1)


def sample(mount: Mount) -> Sample:
    """Look at a daemon."""
    children = children_of(mount.pid)
    return Sample(
        rss=rss(mount.pid),
        children_rss=sum(map(rss, children)),
        descriptors=len(list(Path(f"/proc/{mount.pid}/fd").iterdir())),
        threads=len(list(Path(f"/proc/{mount.pid}/task").iterdir())),
        children=len(children),
    )


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    children: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children + [grandchild for child in children for grandchild in children_of(child)]


def rss(pid: int) -> float:
    """Return the memory of a process that is its own, in MiB; 0 where it has just ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


class Sampler(threading.Thread):
    """Takes samples of all mounts while the context lasts."""

    def __init__(self, world: World, every_s: float) -> None:
        super().__init__(daemon=True)
        self._every_s = every_s
        self._world = world
        self._ends = threading.Event()
        self.samples: list[list[Sample]] = [[] for _ in world.mounts]

    def run(self) -> None:
        """Take them."""
        while not self._ends.wait(self._every_s):
            for samples, mount in zip(self.samples, self._world.mounts, strict=True):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    samples.append(sample(mount))

    def end(self) -> None:
        """Take no more."""
        self._ends.set()
        self.join()


def level(samples: list[Sample]) -> Iterator[str]:
    """Print how each quantity went; yield what is to be said of those that grew."""
    sixth = len(samples) // 6
    print(f"{'':14}{'second sixth':>14}{'last third':>12}{'at the end':>12}")
    for number, quantity in enumerate(fields(Sample)):
        values = [astuple(one)[number] for one in samples]
        before, after = median(values[sixth : 2 * sixth]), median(values[-2 * sixth :])
        print(f"{quantity.name:14}{before:14.1f}{after:12.1f}{values[-1]:12.1f}")
        if after > before * MAY_GROW + astuple(SPARE)[number]:
            yield f"{quantity.name} grew from {before:.1f} to {after:.1f}"


def main() -> None:
    """Run for as long as the command line says."""
    processes.adopt_orphans()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    home = Path(tempfile.mkdtemp(prefix="wbfs-soak-"))
    world = World(home, readers=READERS)
    problems: list[str] = []
    figures: Counter[str] = world.judge.figures
    try:
        with closing(world):
            steps = Steps(world, number=number, with_the_sdk=True, daemons_end=False)
            sampler = Sampler(world, min(SAMPLE_EVERY_S, seconds / SAMPLES))
            sampler.start()
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                steps.step()
            sampler.end()
            world.settle()
            for index, samples in enumerate(sampler.samples):
                print(f"mount {index}, {len(samples)} samples:")
                problems += [f"mount {index}: {grew}" for grew in level(samples)]
    except Violation as violation:
        problems.append(str(violation))
    print(dict(figures))
    if problems:
        sys.exit("\n".join([*problems, f"seed {number}; logs are in {home}"]))
    shutil.rmtree(home)
    print("all of it stays level, every gauge is back at zero, and no byte was wrong")


if __name__ == "__main__":
    main()

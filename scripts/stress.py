"""The stress run itself; scripts/stress sets up what it needs and calls it."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import processes
from judge import Violation
from steps import run_steps
from world import World

READS = 100_000
READERS = 4
STEPS = 60
LONGEST_S = 2 * 3600.0


def run(number: int, home: Path) -> Counter[str]:
    """Do one run of random steps, which the number decides; return what was counted."""
    # Every second one has each byte checked before it is served.
    world = World(home, readers=READERS, verify_always=number % 2 == 1)
    run_steps(world, number=number, steps=STEPS, with_the_sdk=True)
    return world.judge.figures


def main() -> None:
    """Do runs until there were enough reads."""
    processes.adopt_orphans()
    reads = int(sys.argv[1]) if len(sys.argv) > 1 else READS
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    figures: Counter[str] = Counter()
    began = time.monotonic()
    number = first
    while figures["right"] < reads:
        home = Path(tempfile.mkdtemp(prefix="wbfs-stress-"))
        try:
            figures += run(number, home)
        except Violation as violation:
            sys.exit(
                f"{violation}\nto have it again: scripts/stress 1 {number}; logs are in {home}"
            )
        shutil.rmtree(home)
        print(f"{time.monotonic() - began:6.0f} s, seed {number}: {dict(figures)}", flush=True)
        if time.monotonic() - began > LONGEST_S:
            sys.exit("stress: too few reads in the time that there is")
        number += 1
    print(f"{figures['right']} reads were right, and {figures['wrong bytes']} wrong")


if __name__ == "__main__":
    main()

"""The turns that contenders take, and what is left of them: nothing mounted, nothing running."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mounts import run

from benchmark.contenders.mounts import TURN
from benchmark.findings import Findings
from benchmark.samples import Failed, Skipped, Workload

TURN_LIMIT_S = 2000.0
SLOW_TURN_S = 20.0
"""Who takes longer for one turn gets no other: it would tell little more."""
ENDING_S = 5.0


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def take_turns(
    home: Path,
    name: str,
    workload: Workload,
    runs: int,
    findings: Findings,
    only: Collection[str] | None,
) -> None:
    """Let the contenders, or only some, take turns; who fails, or is slow, once is out."""
    out: set[str] = set()
    for number in range(runs):
        for contender, turn in workload.turns.items():
            if contender in out or (only and contender not in only):
                continue
            say(f"{name}, {number + 1} of {runs}: {contender}")
            # A mount that hangs takes along whoever touches it, and only its end sets them free.
            limit = threading.Timer(TURN_LIMIT_S, sweep, [f"{home}/{TURN}"])
            limit.start()
            began = time.monotonic()
            try:
                findings.add(name, contender, turn())
            except Skipped as reason:
                findings.skipped[name, contender] = str(reason)
                out.add(contender)
            except (Failed, AssertionError, OSError, subprocess.TimeoutExpired) as error:
                say(f"{name}: {contender} failed: {error}")
                # A traceback's last line tells most.
                last = str(error).strip().rpartition("\n")[2]
                findings.failed[name, contender] = last or type(error).__name__
                out.add(contender)
            finally:
                limit.cancel()
            if time.monotonic() - began > SLOW_TURN_S:
                out.add(contender)


@contextmanager
def workplace(needed: int) -> Iterator[Path]:
    """Give a folder for everything; at the end nothing is left of it, nor of what ran in it.

    needed: bytes of disk.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        sys.exit(
            f"bench: {tempfile.gettempdir()} has {free >> 20:,} MiB free and the run needs"
            f" {needed >> 20:,}: point TMPDIR to a larger disk"
        )
    home = Path(tempfile.mkdtemp(prefix="wbfs-bench-"))
    try:
        yield home
    finally:
        sweep(f"{home}/")
        shutil.rmtree(home)


def sweep(prefix: str) -> None:
    """Unmount whatever is mounted, and end whatever runs, with a path that begins so.

    Nobody else knows such a path: it has the run's own folder in it.
    """
    for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).split("\n")[:-1]:
        path = line.split(" ")[4]
        if path.startswith(prefix):
            say(f"unmounting {path}, which was left")
            run("fusermount3", "-u", "-z", path)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _processes_of(prefix):
            say(f"ending process {pid}, which was left")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + ENDING_S
        while _processes_of(prefix) and time.monotonic() < deadline:
            time.sleep(0.05)


def _processes_of(prefix: str) -> list[int]:
    """Return the processes, other than this one, whose command line has such a path."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # One that ends meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if prefix.encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(int(path.parent.name))
    return found

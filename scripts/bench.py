"""The benchmark itself; scripts/bench sets up what it needs and calls it."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import processes
from bench_contenders import TURN, Failed, Skipped
from bench_data import Sizes
from bench_link import ANSWERS_PER_S, BYTES_PER_S, ROUND_TRIP_S
from bench_report import Findings, requirements, table, write_json
from bench_scale import scale_workloads
from bench_site import HOST, PROBE_BYTES, Site
from bench_training import training_workloads
from bench_workloads import Workload, workloads
from mounts import run

FULL = Sizes(
    large=1 << 30,
    small_files=10_000,
    train_files=50_000,
    tree_files=100_000,
    million_files=1_000_000,
)
QUICK = Sizes(
    large=64 << 20, small_files=300, train_files=150, tree_files=2_000, million_files=5_000
)
RUNS, QUICK_RUNS = 3, 1
READS, QUICK_READS = 1_000, 50
PROBES = 20
PROBED_CONNECTIONS = 16
PROBE_LIMIT_S = 60.0
ENDING_S = 5.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TURN_LIMIT_S = 2000.0
NEEDED: dict[str, set[str]] = {
    "sequential": {"large"},
    "sequential-wan": {"large"},
    "first-bytes-wan": {"large"},
    "random": {"large"},
    "random-wan": {"large"},
    "mmap": {"large"},
    "mmap-wan": {"large"},
    "small": {"small"},
    "get": {"large", "small"},
    "memory": {"large", "small"},
    "kernel-settings": {"large"},
    "in-order-wan": {"train"},
    "shuffled-wan": {"train"},
    "epochs-wan": {"train"},
    "walk": {"tree"},
    "million": {"million"},
    "stages": {"train", "tree", "million"},
    "start": set(),
}
"""The workloads, and the artifacts that they read."""
NAMES = tuple(NEEDED)


def main() -> None:
    """Run what the command line asks for."""
    options = parse()
    processes.adopt_orphans()
    for number in ENDING_SIGNALS:
        signal.signal(number, end_on_signal)
    sizes = QUICK if options.quick else FULL
    if options.files:
        sizes = replace(sizes, train_files=options.files)
    artifacts = frozenset[str]().union(*(NEEDED[name] for name in options.only or NAMES))
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    findings = Findings()
    with workplace(sizes.needed(artifacts)) as home, ExitStack() as stack:
        began = time.monotonic()
        say(f"making the data and logging it below {home}")
        site = Site(home, sizes, artifacts, stack)
        link = probe_link(site)
        say(f"ready after {time.monotonic() - began:.0f} s")
        print(
            f"{runs} turns each, {options.runs or 1} of what takes minutes;"
            " x wbfs: how many times as fast as wbfs. The link:"
            f" {link['round_trip_s'] * 1000:.1f} ms round trip, {BYTES_PER_S / 1e6:.0f} MB/s and"
            f" {ANSWERS_PER_S:.0f} answers a second a connection,"
            f" {link['total_bytes_per_s'] / 1e6:.0f} MB/s over {PROBED_CONNECTIONS}.",
            end="\n\n",
            flush=True,
        )
        found = workloads(site, reads=QUICK_READS if options.quick else READS)
        found |= training_workloads(site) | scale_workloads(site)
        for name in options.only or NAMES:
            turns = (options.runs or 1) if found[name].once else runs
            take_turns(home, name, found[name], turns, findings, options.contenders)
            print(table(name, found[name], findings), end="\n\n", flush=True)
    met = requirements(findings, options.only or NAMES)
    for row in met:
        print(f"{'PASS' if row['passed'] else 'FAIL'}  {row['requirement']}: {row['found']}")
    if options.quick:
        print("(these are of small sizes, and tell nothing)")
    settings = {"quick": options.quick, "turns": runs, "link": link}
    settings |= {"large_bytes": sizes.large, "small_files": sizes.small_files}
    settings |= {"small_bytes": sizes.small_bytes, "train_files": sizes.train_files}
    settings |= {"tree_files": sizes.tree_files, "million_files": sizes.million_files}
    write_json(options.json, findings=findings, settings=settings, met=met)
    print(f"all figures: {options.json}")
    if findings.failed or (options.strict and not all(row["passed"] for row in met)):
        sys.exit(1)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Compare wbfs with rclone mount, curl, the SDK and the local filesystem.",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument(
        "--runs",
        type=int,
        help=f"turns of each contender; {RUNS} by default, 1 where a turn takes minutes",
    )
    parser.add_argument(
        "--files",
        type=int,
        metavar="N",
        help=f"files that loaders read; {FULL.train_files:,} by default",
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="WORKLOAD", help=", ".join(NAMES)
    )
    parser.add_argument(
        "--contenders", nargs="+", metavar="NAME", help="only these, as the tables call them"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a requirement fails")
    parser.add_argument(
        "--json",
        type=lambda text: Path(text).absolute(),
        default=Path(tempfile.gettempdir(), f"wbfs-bench-{os.getpid()}.json"),
        metavar="FILE",
        help="where all figures go; a new file in the temporary folder by default",
    )
    options = parser.parse_args()
    if not options.json.parent.is_dir():
        parser.error(f"--json: {options.json.parent} is not a folder")
    return options


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def end_on_signal(number: int, _: FrameType | None) -> None:
    """Leave as after an error, so that everything is taken down; later signals change nothing."""
    for one in ENDING_SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def take_turns(
    home: Path,
    name: str,
    workload: Workload,
    runs: int,
    findings: Findings,
    only: Collection[str] | None,
) -> None:
    """Let the contenders, or only some, take turns; who fails once is out."""
    for number in range(runs):
        for contender, turn in workload.turns.items():
            if (name, contender) in findings.skipped or (name, contender) in findings.failed:
                continue
            if only and contender not in only:
                continue
            say(f"{name}, {number + 1} of {runs}: {contender}")
            # A mount that hangs takes along whoever touches it, and only its end sets them free.
            limit = threading.Timer(TURN_LIMIT_S, sweep, [f"{home}/{TURN}"])
            limit.start()
            try:
                findings.add(name, contender, turn())
            except Skipped as reason:
                findings.skipped[name, contender] = str(reason)
            except (Failed, AssertionError, OSError, subprocess.TimeoutExpired) as error:
                say(f"{name}: {contender} failed: {error}")
                # A traceback's last line tells most.
                last = str(error).strip().rpartition("\n")[2]
                findings.failed[name, contender] = last or type(error).__name__
            finally:
                limit.cancel()


def probe_link(site: Site) -> dict[str, float]:
    """Measure the link: its round trip, and what it carries over many connections at once."""
    connection = http.client.HTTPConnection(HOST, site.far.files_port, timeout=PROBE_LIMIT_S)
    times = []
    with contextlib.closing(connection):
        for _ in range(PROBES):
            began = time.perf_counter()
            connection.request("HEAD", "/plain/probe")
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
    url = f"{site.far.plain_url}/probe"
    command = ["curl", "-sS", "--fail", "--noproxy", "*", "--parallel", "--parallel-immediate"]
    command += ["--parallel-max", str(PROBED_CONNECTIONS)]
    command += ["-o", "/dev/null", url] * PROBED_CONNECTIONS
    began = time.perf_counter()
    done = run(*command, timeout_s=PROBE_LIMIT_S)
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    return {
        "round_trip_s": statistics.median(times),
        "nominal_round_trip_s": ROUND_TRIP_S,
        "connection_bytes_per_s": BYTES_PER_S,
        "connection_answers_per_s": ANSWERS_PER_S,
        "total_bytes_per_s": PROBED_CONNECTIONS * PROBE_BYTES / seconds,
    }


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
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        path = line.split()[4]
        if path.startswith(prefix):
            say(f"unmounting {path}, which was left")
            run("fusermount3", "-u", "-z", path)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_of(prefix):
            say(f"ending process {pid}, which was left")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + ENDING_S
        while processes_of(prefix) and time.monotonic() < deadline:
            time.sleep(0.05)


def processes_of(prefix: str) -> list[int]:
    """Return the processes, other than this one, whose command line has such a path."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # One that ends meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if prefix.encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    main()

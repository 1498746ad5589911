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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from bench_contenders import TURN, Failed, Skipped
from bench_link import BYTES_PER_S, ROUND_TRIP_S
from bench_report import Findings, requirements, table, write_json
from bench_site import HOST, LARGE, Site, Sizes
from bench_workloads import Workload, workloads
from mounts import run

FULL = Sizes(large=1 << 30, small_files=10_000)
QUICK = Sizes(large=64 << 20, small_files=300)
RUNS, QUICK_RUNS = 3, 1
READS, QUICK_READS = 1_000, 50
PROBES = 20
PROBED_CONNECTIONS = 16
PROBE_LIMIT_S = 60.0
ENDING_S = 5.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TURN_LIMIT_S = 900.0
NAMES = (
    "sequential",
    "sequential-wan",
    "first-bytes-wan",
    "random",
    "random-wan",
    "mmap",
    "mmap-wan",
    "small",
    "get",
    "memory",
    "kernel-settings",
)


def main() -> None:
    """Run what the command line asks for."""
    options = parse()
    for number in ENDING_SIGNALS:
        signal.signal(number, end_on_signal)
    sizes = QUICK if options.quick else FULL
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    findings = Findings()
    with workplace(sizes) as home, ExitStack() as stack:
        began = time.monotonic()
        say(f"making the data and logging it below {home}")
        site = Site(home, sizes, stack)
        link = probe_link(site)
        say(f"ready after {time.monotonic() - began:.0f} s")
        print(
            f"{runs} turns each; x wbfs: how many times as fast as wbfs. The link:"
            f" {link['round_trip_s'] * 1000:.1f} ms round trip, {BYTES_PER_S / 1e6:.0f} MB/s a"
            f" connection, {link['total_bytes_per_s'] / 1e6:.0f} MB/s over {PROBED_CONNECTIONS}.",
            end="\n\n",
            flush=True,
        )
        found = workloads(site, reads=QUICK_READS if options.quick else READS)
        for name in options.only or NAMES:
            take_turns(home, name, found[name], 1 if found[name].once else runs, findings)
            print(table(name, found[name], findings), end="\n\n", flush=True)
    met = requirements(findings, options.only or NAMES)
    for row in met:
        print(f"{'PASS' if row['passed'] else 'FAIL'}  {row['requirement']}: {row['found']}")
    if options.quick:
        print("(these are of small sizes, and tell nothing)")
    settings = {"quick": options.quick, "turns": runs, "link": link}
    settings |= {"large_bytes": sizes.large, "small_files": sizes.small_files}
    settings |= {"small_bytes": sizes.small_bytes}
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
    parser.add_argument("--runs", type=int, help=f"turns of each contender; {RUNS} by default")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="WORKLOAD", help=", ".join(NAMES)
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


def take_turns(home: Path, name: str, workload: Workload, runs: int, findings: Findings) -> None:
    """Let the contenders take turns; who fails once is out."""
    for number in range(runs):
        for contender, turn in workload.turns.items():
            if (name, contender) in findings.skipped or (name, contender) in findings.failed:
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
                findings.failed[name, contender] = str(error) or type(error).__name__
                say(f"{name}: {contender} failed: {error}")
            finally:
                limit.cancel()


def probe_link(site: Site) -> dict[str, float]:
    """Measure the link: its round trip, and what it carries over many connections at once."""
    connection = http.client.HTTPConnection(HOST, site.far.files_port, timeout=PROBE_LIMIT_S)
    times = []
    with contextlib.closing(connection):
        for _ in range(PROBES):
            began = time.perf_counter()
            connection.request("HEAD", f"/plain/large/{LARGE}")
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
    url = f"{site.far.plain_url}/large/{LARGE}"
    size = min(site.sizes.large, int(BYTES_PER_S))
    command = ["curl", "-sS", "--fail", "--noproxy", "*", "--parallel", "--parallel-immediate"]
    command += ["--parallel-max", str(PROBED_CONNECTIONS), "-r", f"0-{size - 1}"]
    command += ["-o", "/dev/null", url] * PROBED_CONNECTIONS
    began = time.perf_counter()
    done = run(*command, timeout_s=PROBE_LIMIT_S)
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    return {
        "round_trip_s": statistics.median(times),
        "nominal_round_trip_s": ROUND_TRIP_S,
        "connection_bytes_per_s": BYTES_PER_S,
        "total_bytes_per_s": PROBED_CONNECTIONS * size / seconds,
    }


@contextmanager
def workplace(sizes: Sizes) -> Iterator[Path]:
    """Give a folder for everything; at the end nothing is left of it, nor of what ran in it."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < sizes.needed:
        sys.exit(
            f"bench: {tempfile.gettempdir()} has {free >> 20:,} MiB free and the run needs"
            f" {sizes.needed >> 20:,}: point TMPDIR to a larger disk"
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

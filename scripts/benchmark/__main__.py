"""The command line; scripts/bench sets up what it needs and calls it."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import ssl
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType

import processes
from mounts import run

from benchmark.findings import Findings
from benchmark.numbers import numbers
from benchmark.report import table, write_json
from benchmark.requirements import PASS, requirements
from benchmark.samples import Workload
from benchmark.site import PROBE_BYTES, Site
from benchmark.site.data import Sizes
from benchmark.site.link import ANSWERS_PER_S, BYTES_PER_S, ROUND_TRIP_S
from benchmark.site.servers import HOST
from benchmark.turns import SLOW_TURN_S, say, take_turns, workplace
from benchmark.workloads.growth import GROWTH, growth_table, growth_workload
from benchmark.workloads.large import large_workloads
from benchmark.workloads.limits import (
    LIMITS,
    SMALL_LIMITS,
    limits_workload,
    small_limits_workload,
)
from benchmark.workloads.scale import scale_workloads
from benchmark.workloads.small import small_workloads
from benchmark.workloads.training import training_workloads

FULL = Sizes(
    large=1 << 30,
    small_files=10_000,
    train_files=10_000,
    tree_files=100_000,
    million_files=1_000_000,
    growing=1_000,
)
QUICK = Sizes(
    large=64 << 20,
    small_files=300,
    train_files=200,
    tree_files=2_000,
    million_files=5_000,
    growing=100,
)
RUNS, QUICK_RUNS = 3, 1
READS, QUICK_READS = 1_000, 50
PROBES = 20
PROBED_CONNECTIONS = 16
PROBE_LIMIT_S = 60.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
    "get-wan": {"large", "small"},
    "memory": {"large", "small"},
    "kernel-settings": {"large"},
    "in-order-wan": {"train"},
    "shuffled-wan": {"train"},
    "first-batch-wan": {"train"},
    "epochs-wan": {"train"},
    "walk": {"tree"},
    "million": {"million"},
    "stages": {"train", "tree", "million"},
    "start": set(),
    GROWTH: {"train", "growing"},
    LIMITS: {"large"},
    SMALL_LIMITS: {"train"},
}
"""The workloads, and the artifacts that they read."""
NAMES = tuple(NEEDED)
DECIDING = (
    "limits",
    "limits-small",
    "sequential",
    "sequential-wan",
    "first-bytes-wan",
    "mmap-wan",
    "get",
    "get-wan",
    "shuffled-wan",
    "first-batch-wan",
    "epochs-wan",
    "start",
)
"""Those that are run unless others are named, in less than half an hour."""


def main() -> None:
    """Run what the command line asks for."""
    options = parse()
    processes.adopt_orphans()
    for number in ENDING_SIGNALS:
        signal.signal(number, end_on_signal)
    sizes = QUICK if options.quick else FULL
    if options.files:
        sizes = replace(sizes, train_files=options.files)
    names = options.only or (NAMES if options.all else DECIDING)
    artifacts = frozenset[str]().union(*(NEEDED[name] for name in names))
    runs = options.runs or (QUICK_RUNS if options.quick else RUNS)
    findings = Findings()
    with workplace(sizes.needed(artifacts)) as home, ExitStack() as stack:
        began = time.monotonic()
        say(f"making the data and logging it below {home}")
        site = Site(home, sizes, artifacts, stack, tls=not options.plain)
        link = probe_link(site)
        say(f"ready after {time.monotonic() - began:.0f} s")
        print(
            f"{'Plain HTTP' if options.plain else 'TLS'}; {runs} turns each, one of who takes"
            f" longer than {SLOW_TURN_S:.0f} s; x wbfs: how many times as fast as wbfs. The link:"
            f" {link['round_trip_s'] * 1000:.1f} ms round trip, {BYTES_PER_S / 1e6:.0f} MB/s and"
            f" {ANSWERS_PER_S:.0f} answers a second a connection,"
            f" {link['total_bytes_per_s'] / 1e6:.0f} MB/s over {PROBED_CONNECTIONS}.",
            end="\n\n",
            flush=True,
        )
        found = workloads(site, reads=QUICK_READS if options.quick else READS)
        for name in names:
            take_turns(home, name, found[name], runs, findings, options.contenders)
            told = table(name, found[name], findings) if name != GROWTH else growth_table(findings)
            print(told, end="\n\n", flush=True)
        took_s = time.monotonic() - began
    met = requirements(findings, names)
    for row in met:
        print(f"{row['verdict']:<5}  {row['requirement']}: {row['found']}")
    if told := numbers(findings, names):
        print(f"\n{told}\n")
    if options.quick:
        print("(these are of small sizes, and tell nothing)")
    settings = {"quick": options.quick, "tls": not options.plain, "turns": runs, "link": link}
    settings |= {"large_bytes": sizes.large, "small_files": sizes.small_files}
    settings |= {"small_bytes": sizes.small_bytes, "train_files": sizes.train_files}
    settings |= {"tree_files": sizes.tree_files, "million_files": sizes.million_files}
    settings |= {"growing": sizes.growing}
    write_json(options.json, findings=findings, settings=settings, met=met)
    print(f"all figures, after {took_s / 60:.0f} minutes: {options.json}")
    if findings.failed or (options.strict and any(row["verdict"] != PASS for row in met)):
        sys.exit(1)


def workloads(site: Site, *, reads: int) -> dict[str, Workload]:
    """Return all workloads by name."""
    return {
        **large_workloads(site, reads=reads),
        **small_workloads(site),
        **training_workloads(site),
        **scale_workloads(site),
        GROWTH: growth_workload(site),
        LIMITS: limits_workload(site),
        SMALL_LIMITS: small_limits_workload(site),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Compare wbfs with rclone mount, curl, aria2c, the SDK and the local disk.",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--plain", action="store_true", help="plain HTTP in place of TLS")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"turns of each contender; {RUNS} by default"
    )
    parser.add_argument(
        "--files",
        type=int,
        metavar="N",
        help=f"files that loaders read; {FULL.train_files:,} by default",
    )
    parser.add_argument("--all", action="store_true", help="all workloads, of which some take long")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="WORKLOAD", help=", ".join(NAMES)
    )
    parser.add_argument(
        "--contenders", nargs="+", metavar="NAME", help="only these, as the tables call them"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 if a requirement is not met"
    )
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


def end_on_signal(number: int, _: FrameType | None) -> None:
    """Leave as after an error, so that everything is taken down; later signals change nothing."""
    for one in ENDING_SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def probe_link(site: Site) -> dict[str, float]:
    """Measure the link: its round trip, and what it carries over many connections at once."""
    port = site.far.files_port
    connection = (
        http.client.HTTPSConnection(
            HOST,
            port,
            timeout=PROBE_LIMIT_S,
            context=ssl.create_default_context(cafile=site.ca_file),
        )
        if site.ca_file
        else http.client.HTTPConnection(HOST, port, timeout=PROBE_LIMIT_S)
    )
    times = []
    with contextlib.closing(connection):
        for _ in range(PROBES):
            began = time.perf_counter()
            connection.request("HEAD", "/plain/probe")
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
    url = f"{site.far.plain_url}/probe"
    command = ["curl", "-sS", "--fail", "--noproxy", "*", *site.trusting("--cacert")]
    command += ["--parallel", "--parallel-immediate", "--parallel-max", str(PROBED_CONNECTIONS)]
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


if __name__ == "__main__":
    main()

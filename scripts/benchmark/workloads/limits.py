"""What a file, or many, can't be had in less than: its steps one by one, and nothing but them.

Of a large file the processor's seconds of each step, and of all that a reader waits for shared by
the processors. What curl doesn't do is to give the bytes to a program through the kernel: that
copies them three times more.

Of many small files over the link the processor's seconds of each who takes part, and of all of them
shared, in wbfs, and at the least: curl fetches the files and checks none, and a daemon that has
them in memory answers the same readers.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

from mounts import run

from benchmark.contenders import WBFS
from benchmark.contenders.kernel import read_ahead_as_wbfs
from benchmark.contenders.mounts import (
    Mounted,
    descendants,
    mounted_daemon,
    mounted_wbfs,
    processor_s,
    scratch,
)
from benchmark.programs import LIMIT_S, load, read, step
from benchmark.samples import Failed, Sample, Workload
from benchmark.site import Site
from benchmark.site.data import LARGE, files_below
from benchmark.workloads.training import READERS
from benchmark.workloads.turns import SEED

LIMITS, SMALL_LIMITS = "limits", "limits-small"
ALONE = "alone"
CURLS_CONNECTIONS = 48
"""As many as wbfs fetches small files ahead with."""


def limits_workload(site: Site) -> Workload:
    """Return the workload."""
    size = f"{site.sizes.large / (1 << 20):,.0f} MiB"
    url = f"{site.near.plain_url}/large/{LARGE}"
    return Workload(
        title=f"a file of {size} from end to end: processor's seconds of each step",
        turns={ALONE: lambda: _steps(site, url)},
        about="the digest is taken once all is there, and no reader waits for it",
    )


def small_limits_workload(site: Site) -> Workload:
    """Return the workload of small files."""
    return Workload(
        title=(
            f"{site.sizes.train_files:,} files of 8 to 64 KiB over the link, {READERS} shuffled"
            " readers: processor's seconds of each who takes part, and how long"
        ),
        turns={ALONE: lambda: _small_alone(site), WBFS: lambda: _small_by_wbfs(site)},
        about=f"{ALONE}: fetched by curl, then answered by a daemon that has them in memory",
    )


def _small_alone(site: Site) -> dict[str, Sample]:
    with scratch(site) as state:
        site.settle("train")
        before, before_s = _servers_s(site), _children_s()
        _fetch_with_curl(site, state)
        took = _since(before, _servers_s(site)) | {"fetch, keep": _children_s() - before_s}
    with scratch(site) as state, mounted_daemon(site, site.far, state, name="train") as mounted:
        before, before_s = {"answer": processor_s(mounted.pid)}, _children_s()
        _read_shuffled(mounted)
        took |= _since(before, {"answer": processor_s(mounted.pid)})
        took["readers"] = _children_s() - before_s
    return _shared(took)


def _small_by_wbfs(site: Site) -> dict[str, Sample]:
    def now_s(mounted: Mounted) -> dict[str, float]:
        own = {"answer": processor_s(mounted.pid)}
        return _servers_s(site) | own | {"fetch, keep": _helpers_s(mounted)}

    with scratch(site) as state:
        site.settle("train")
        with mounted_wbfs(site, site.far, state) as mounted:
            before, before_s = now_s(mounted), _children_s()
            sample = _read_shuffled(mounted)
            took = _since(before, now_s(mounted))
            took["readers"] = _children_s() - before_s
    return _shared(took) | {"cold": sample}


def _fetch_with_curl(site: Site, state: Path) -> None:
    """Fetch all files, each once. Raises Failed."""
    lines = []
    for number, path in enumerate(files_below(site.plain / "train")):
        url = f"{site.far.plain_url}/{path.relative_to(site.plain)}"
        lines += [f'url = "{url}"', f'output = "{state / str(number)}"']
    config = state / "config"
    config.write_text("\n".join(lines))
    command = ["curl", "-sS", "--fail", "--noproxy", "*", *site.trusting("--cacert")]
    command += ["--parallel", "--parallel-immediate", "--parallel-max", str(CURLS_CONNECTIONS)]
    done = run(*command, "--config", str(config), timeout_s=LIMIT_S)
    if done.returncode:
        raise Failed(f"curl: {done.stderr.strip()[-500:]}")


def _read_shuffled(mounted: Mounted) -> Sample:
    return load("shares", mounted.root("train"), processes=READERS, seed=SEED)


def _servers_s(site: Site) -> dict[str, float]:
    return {"serve, encrypt": processor_s(site.nginx), "link": processor_s(site.link)}


def _helpers_s(mounted: Mounted) -> float:
    return sum(map(processor_s, descendants(mounted.pid)))


def _since(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {name: now[name] - before[name] for name in now}


def _shared(took: Mapping[str, float]) -> dict[str, Sample]:
    """Return what each took of the processors, and the time of all who share them."""
    processors = len(os.sched_getaffinity(0))
    all_s = sum(took.values()) / processors
    return {name: Sample(seconds=seconds) for name, seconds in took.items()} | {
        "all, shared": Sample(seconds=all_s)
    }


def _steps(site: Site, url: str) -> dict[str, Sample]:
    """Return the processor's seconds of each step, and of those that a reader waits for."""
    ca_file = str(site.ca_file or "")
    steps: dict[str, Sample] = {}
    with scratch(site) as state:
        site.settle("large")
        before_s = processor_s(site.nginx)
        steps["receive, decrypt"] = step("received", url=url, ca_file=ca_file)
        steps["serve, encrypt"] = Sample(seconds=processor_s(site.nginx) - before_s)
        file = str(state / LARGE)
        steps["the same, written"] = step("received", url=url, ca_file=ca_file, file=file)
        steps["MD5"] = step("digested", size=site.sizes.large)
        steps["copied"] = step("copied", source=file, file=str(state / "copy"))
        steps |= _through_kernel(site, state)
    waited_for = ("serve, encrypt", "the same, written", "daemon", "reader")
    whole_s = sum(steps[name].seconds for name in waited_for)
    processors = len(os.sched_getaffinity(0))
    steps["all, shared"] = Sample(seconds=whole_s / processors, bytes=site.sizes.large)
    to_get = ("serve, encrypt", "the same, written", "MD5", "copied")
    whole_s = sum(steps[name].seconds for name in to_get)
    steps["got, shared"] = Sample(seconds=whole_s / processors, bytes=site.sizes.large)
    return steps


def _through_kernel(site: Site, state: Path) -> dict[str, Sample]:
    with mounted_daemon(site, site.near, state, name="large") as mounted:
        read_ahead_as_wbfs(mounted.path)
        before_s, before = processor_s(mounted.pid), _children_s()
        read("sequential", mounted.root("large") / LARGE)
        return {
            "daemon": Sample(seconds=processor_s(mounted.pid) - before_s),
            "reader": Sample(seconds=_children_s() - before),
        }


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

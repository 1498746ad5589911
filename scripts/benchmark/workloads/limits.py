"""What a large file can't be had in less than: its steps one by one, and nothing but them.

The processor's seconds of each step, and of all that a reader waits for shared by the processors;
beside them the time of a daemon that does these steps and no more, of curl and of wbfs. What curl
doesn't do is to give the bytes to a program through the kernel: that copies them three times more.

So it is with downloads, too: of `wbfs get` and of what does nothing but receive, check and write
twice, beside aria2c, which neither checks the file nor keeps it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmark.contenders import ARIA2C, CURL, LEAST, LEAST_GET, WBFS
from benchmark.contenders.downloads import (
    fetch_with_aria2c,
    fetch_with_curl,
    get_with_least,
    get_with_wbfs,
)
from benchmark.contenders.kernel import read_ahead_as_wbfs
from benchmark.contenders.mounts import (
    Mounted,
    mounted_daemon,
    mounted_least,
    mounted_wbfs,
    scratch,
)
from benchmark.programs import read, step
from benchmark.samples import Sample, Workload
from benchmark.site import Site
from benchmark.site.data import LARGE
from benchmark.workloads.turns import downloaded, on_mounts

LIMITS = "limits"
ALONE = "alone"
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def limits_workload(site: Site) -> Workload:
    """Return the workload."""
    size = f"{site.sizes.large / (1 << 20):,.0f} MiB"
    url = f"{site.near.plain_url}/large/{LARGE}"
    reading = on_mounts(
        {
            LEAST: partial(mounted_least, name=f"large/{LARGE}", size=site.sizes.large),
            WBFS: mounted_wbfs,
        },
        site,
        site.near,
        "large",
        _read,
    )
    return Workload(
        title=f"a file of {size} from end to end: processor's seconds of each step, and how long",
        turns={
            ALONE: lambda: _steps(site, url),
            **reading,
            WBFS: lambda: {
                **reading[WBFS](),
                "got": downloaded(site, "large", partial(get_with_wbfs, site, site.near, "large")),
            },
            **{
                name: partial(_fetch, site, url, case, fetch)
                for name, case, fetch in (
                    (CURL, "cold", fetch_with_curl),
                    (LEAST_GET, "got", get_with_least),
                    (ARIA2C, "got", fetch_with_aria2c),
                )
            },
        },
        about="the digest is taken once all is there, and no reader waits for it",
    )


def _fetch(
    site: Site, url: str, case: str, fetch: Callable[[Site, str, Path], Sample]
) -> dict[str, Sample]:
    return {case: downloaded(site, "large", lambda state: fetch(site, url, state / LARGE))}


def _read(mounted: Mounted) -> dict[str, Sample]:
    root = mounted.root("large")
    # What is listed has an address.
    read("listing", root)
    return {"cold": read("sequential", root / LARGE if (root / LARGE).exists() else root / "file")}


def _steps(site: Site, url: str) -> dict[str, Sample]:
    """Return the processor's seconds of each step, and of those that a reader waits for."""
    ca_file = str(site.ca_file or "")
    steps: dict[str, Sample] = {}
    with scratch(site) as state:
        site.settle("large")
        before_s = _processor_s(site.nginx)
        steps["receive, decrypt"] = step("received", url=url, ca_file=ca_file)
        steps["serve, encrypt"] = Sample(seconds=_processor_s(site.nginx) - before_s)
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
        before_s, before = _processor_s(mounted.pid), _children_s()
        read("sequential", mounted.root("large") / LARGE)
        return {
            "daemon": Sample(seconds=_processor_s(mounted.pid) - before_s),
            "reader": Sample(seconds=_children_s() - before),
        }


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS_A_SECOND

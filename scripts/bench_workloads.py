"""The workloads: what each contender does in one turn, and what of it is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench_contenders import (
    KERNEL_DEFAULTS,
    Mounted,
    Sample,
    fetch_with_curl,
    get_with_sdk,
    get_with_wbfs,
    kernel_settings,
    mounted_daemon,
    mounted_rclone,
    mounted_wbfs,
    read,
    scratch,
)
from bench_data import LARGE
from bench_link import ROUND_TRIP_S
from bench_site import Place, Site

WBFS, CURL, RCLONE, NATIVE, SDK = "wbfs", "curl -o", "rclone mount", "native", "SDK"
BARE = "do-nothing daemon"
RCLONE_NO_CACHE = "rclone, no cache"
TENSOR_SHARE = 0.1
SEED = 20
ORDERS = (("in order", None), ("shuffled", SEED))
SETTLE_S = 3.0
QUIET_S = 1.0
QUIET_LIMIT_S = 20.0

Turn = Callable[[], Mapping[str, Sample]]
"""One turn of one contender: its samples by case."""
MountIt = Callable[[Site, Place, Path], AbstractContextManager[Mounted]]

MOUNTS: dict[str, MountIt] = {WBFS: mounted_wbfs, RCLONE: mounted_rclone}
MORE_MOUNTS: dict[str, MountIt] = {
    **MOUNTS,
    RCLONE_NO_CACHE: partial(mounted_rclone, cache_mode="off"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Something to do, by several contenders in turns.

    note: says what is to be told of a sample besides its time and its rate. once: more turns than
    one would tell nothing more, or take too long, unless they are asked for.
    """

    title: str
    turns: Mapping[str, Turn]
    note: Callable[[Mapping[str, float]], str] = lambda more: ""
    once: bool = False


def workloads(site: Site, *, reads: int) -> dict[str, Workload]:
    """Return all workloads by name; `reads` is how many random ones there are."""
    near, far = site.near, site.far
    size = f"{site.sizes.large / (1 << 20):,.0f} MiB"
    files = f"{site.sizes.small_files:,} files of {site.sizes.small_bytes >> 10} KiB"
    tensors = f"a tenth of the tensors of a mapped file of {size}"
    return {
        "sequential": Workload(
            title=f"a file of {size} from end to end",
            turns={
                **_with_mounts(MORE_MOUNTS, site, near, _read_twice),
                CURL: lambda: _curl(site, near),
                NATIVE: lambda: _native(site, lambda: read("sequential", site.large)),
            },
        ),
        "sequential-wan": Workload(
            title=f"a file of {size} from end to end, over the link",
            turns={
                **_with_mounts(MORE_MOUNTS, site, far, _read_once),
                CURL: lambda: _curl(site, far),
            },
        ),
        "first-bytes-wan": Workload(
            title=f"the first 4 KiB of {size}, after ls, over the link",
            turns={
                **_with_mounts(MOUNTS, site, far, partial(_first_bytes, site)),
                "curl -r": lambda: _curl_first_bytes(site),
            },
            note=lambda more: (
                f"{more['round_trips']:.2f} round trips, {_moved(more)},"
                f" {more['connections']:.0f} new connections"
            ),
        ),
        "random": Workload(
            title=f"{reads:,} reads of 4 KiB anywhere in {size}",
            turns=_with_mounts(MOUNTS, site, near, partial(_scattered, reads)),
            note=_slowest,
        ),
        "random-wan": Workload(
            title=f"{reads:,} reads of 4 KiB anywhere in {size}, over the link",
            turns=_with_mounts(
                MOUNTS, site, far, lambda at: _counted(site, lambda: _scattered(reads, at))
            ),
            note=lambda more: f"{_slowest(more)}, {_moved(more)}",
        ),
        "mmap": Workload(title=tensors, turns=_with_mounts(MOUNTS, site, near, _tensors)),
        "mmap-wan": Workload(
            title=f"{tensors}, over the link",
            turns=_with_mounts(MOUNTS, site, far, lambda at: _counted(site, lambda: _tensors(at))),
            note=_moved,
        ),
        "small": Workload(
            title=f"{files}, listed and read",
            turns={
                **{name: partial(_small, site, how) for name, how in MORE_MOUNTS.items()},
                BARE: lambda: _bare_small(site),
                NATIVE: lambda: _native_small(site),
            },
            note=lambda more: f"listed in {more['list_s']:.2f} s",
        ),
        "get": Workload(
            title=f"an artifact downloaded as a whole: one file of {size}, or {files}",
            turns={
                WBFS: lambda: _get(site, get_with_wbfs),
                SDK: lambda: _get(site, get_with_sdk),
            },
            note=lambda more: (
                f"{more['process_s']:.2f} s with its import" if "process_s" in more else ""
            ),
        ),
        "memory": Workload(
            title="resident memory after all of these in one mount",
            turns={name: partial(_memory, site, how, reads) for name, how in MOUNTS.items()},
            note=lambda more: (
                f"resident {more['VmRSS'] / (1 << 20):.0f} MiB, at its peak"
                f" {more['VmHWM'] / (1 << 20):.0f} MiB"
            ),
            once=True,
        ),
        "kernel-settings": Workload(
            title=f"a file of {size} from end to end, with and without root's kernel settings",
            turns={
                WBFS: lambda: _with_kernel_settings(site, None),
                "wbfs, kernel's own": lambda: _with_kernel_settings(site, KERNEL_DEFAULTS),
            },
            note=lambda more: ", ".join(f"{name} {more[name]:.0f}" for name in KERNEL_DEFAULTS),
        ),
    }


def _with_mounts(
    mounts: Mapping[str, MountIt],
    site: Site,
    place: Place,
    measure: Callable[[Mounted], Mapping[str, Sample]],
) -> dict[str, Turn]:
    """Return turns that mount, with nothing cached, and measure something of the large file."""

    def turn(mount_it: MountIt) -> Mapping[str, Sample]:
        with scratch(site) as state:
            site.settle("large")
            with mount_it(site, place, state) as mounted:
                # curl has the file's address too.
                read("listing", mounted.folders["large"])
                return measure(mounted)

    return {name: partial(turn, mount_it) for name, mount_it in mounts.items()}


def _read_once(mounted: Mounted) -> dict[str, Sample]:
    return {"cold": read("sequential", mounted.folders["large"] / LARGE)}


def _read_twice(mounted: Mounted) -> dict[str, Sample]:
    cold = _read_once(mounted)
    # What the first reading left to write and to check is not the second one's to wait for.
    os.sync()
    time.sleep(SETTLE_S)
    return cold | {"warm": read("sequential", mounted.folders["large"] / LARGE)}


def _scattered(reads: int, mounted: Mounted) -> dict[str, Sample]:
    path = mounted.folders["large"] / LARGE
    return {"cold": read("scattered", path, count=reads, seed=SEED)}


def _slowest(more: Mapping[str, float]) -> str:
    return f"slowest {more['slowest_s'] * 1000:.1f} ms"


def _moved(more: Mapping[str, float]) -> str:
    return f"{more['moved'] / (1 << 20):,.2f} MiB moved"


def _tensors(mounted: Mounted) -> dict[str, Sample]:
    path = mounted.folders["large"] / LARGE
    return {"cold": read("tensors", path, share=TENSOR_SHARE, seed=SEED)}


def _first_bytes(site: Site, mounted: Mounted) -> Mapping[str, Sample]:
    path = mounted.folders["large"] / LARGE
    return _counted(site, lambda: {"cold": read("first", path)})


def _curl_first_bytes(site: Site) -> Mapping[str, Sample]:
    url = f"{site.far.plain_url}/large/{LARGE}"
    with scratch(site) as state:
        return _counted(site, lambda: {"cold": fetch_with_curl(url, state / LARGE, "-r", "0-4095")})


def _counted(site: Site, measuring: Turn) -> dict[str, Sample]:
    """Add what the link carried for it, also what came after the program had its bytes."""
    before = _quiet(site)
    samples = measuring()
    after = _quiet(site)
    moved, connections = (after[name] - before[name] for name in ("bytes", "connections"))
    return {
        case: replace(
            sample,
            more={
                **sample.more,
                "round_trips": sample.seconds / ROUND_TRIP_S,
                "moved": moved,
                "connections": connections,
            },
        )
        for case, sample in samples.items()
    }


def _quiet(site: Site) -> Mapping[str, int]:
    """Wait until the link carries nothing, for a while at most; return what it has carried."""
    deadline = time.monotonic() + QUIET_LIMIT_S
    carried = site.carried()
    since = time.monotonic()
    while time.monotonic() < min(since + QUIET_S, deadline):
        time.sleep(0.1)
        now = site.carried()
        if now != carried:
            carried, since = now, time.monotonic()
    return carried


def _curl(site: Site, place: Place) -> dict[str, Sample]:
    with scratch(site) as state:
        site.settle("large")
        return {"cold": fetch_with_curl(f"{place.plain_url}/large/{LARGE}", state / LARGE)}


def _native(site: Site, reading: Callable[[], Sample]) -> dict[str, Sample]:
    site.settle("large")
    return {"warm": reading()}


def _small(site: Site, mount_it: MountIt) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for order, seed in ORDERS:
        with scratch(site) as state:
            site.settle("small")
            with mount_it(site, site.near, state) as mounted:
                folder = mounted.folders["small"]
                samples[f"{order}, cold"] = read("folder", folder, seed=seed)
            os.sync()
            with mount_it(site, site.near, state) as mounted:
                samples[f"{order}, disk cache"] = read("folder", folder, seed=seed)
                samples |= _from_page_cache(order, read("folder", folder, seed=seed))
    return samples


def _from_page_cache(order: str, sample: Sample) -> dict[str, Sample]:
    alone = replace(sample, seconds=sample.seconds - sample.more["list_s"])
    return {f"{order}, page cache": sample, f"{order}, not listed": alone}


def _bare_small(site: Site) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for order, seed in ORDERS:
        with scratch(site) as state:
            site.settle("small")
            with mounted_daemon(site, site.near, state, name="small") as mounted:
                folder = mounted.folders["small"]
                read("folder", folder, seed=seed)
                samples |= _from_page_cache(order, read("folder", folder, seed=seed))
    return samples


def _native_small(site: Site) -> dict[str, Sample]:
    site.settle("small")
    samples: dict[str, Sample] = {}
    for order, seed in ORDERS:
        samples |= _from_page_cache(order, read("folder", site.plain / "small", seed=seed))
    return samples


def _get(site: Site, get: Callable[[Site, str, Path], Sample]) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for name in ("large", "small"):
        with scratch(site) as state:
            site.settle(name)
            samples[name] = get(site, name, state)
    return samples


def _memory(site: Site, mount_it: MountIt, reads: int) -> dict[str, Sample]:
    with scratch(site) as state:
        site.settle("large")
        with mount_it(site, site.near, state) as mounted:
            path = mounted.folders["large"] / LARGE
            samples = [
                read("scattered", path, count=reads, seed=SEED),
                read("tensors", path, share=TENSOR_SHARE, seed=SEED),
                read("sequential", path),
                read("folder", mounted.folders["small"], seed=SEED),
            ]
            seconds = sum(sample.seconds for sample in samples)
            return {"after all": Sample(seconds=seconds, more=mounted.memory())}


def _with_kernel_settings(site: Site, wanted: Mapping[str, int] | None) -> dict[str, Sample]:
    with scratch(site) as state:
        site.settle("large")
        with mounted_wbfs(site, site.near, state) as mounted:
            settings = kernel_settings(mounted.path, wanted)
            sample = read("sequential", mounted.folders["large"] / LARGE)
            return {"cold": replace(sample, more={**sample.more, **settings})}

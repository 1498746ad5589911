"""The workloads of one large file: from end to end, its first bytes, here and there, mapped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from benchmark.contenders import CURL, LEAST, NATIVE, WBFS
from benchmark.contenders.downloads import fetch_with_curl
from benchmark.contenders.kernel import KERNEL_DEFAULTS, kernel_settings
from benchmark.contenders.mounts import (
    RCLONE_HERE_AND_THERE,
    RCLONE_THROUGH,
    Mounted,
    MountIt,
    about_tuned,
    mounted_least,
    mounted_wbfs,
    mounts,
    scratch,
)
from benchmark.programs import read
from benchmark.samples import Sample, Turn, Workload
from benchmark.site import Site
from benchmark.site.data import LARGE
from benchmark.site.servers import Place
from benchmark.workloads.turns import SEED, counted, downloaded, measured, on_mounts, told_moved

TENSOR_SHARE = 0.1
SETTLE_S = 3.0
KERNELS_OWN = "wbfs, kernel's own"


def large_workloads(site: Site, *, reads: int) -> dict[str, Workload]:
    """Return the workloads by name; `reads` is how many random ones there are."""
    near, far = site.near, site.far
    size = f"{site.sizes.large / (1 << 20):,.0f} MiB"
    tensors = f"a tenth of the tensors of a mapped file of {size}"

    def on(
        place: Place,
        measure: Callable[[Mounted], Mapping[str, Sample]],
        tuned: Sequence[str] = RCLONE_HERE_AND_THERE,
        also: Mapping[str, MountIt] | None = None,
    ) -> dict[str, Turn]:
        def after_listing(mounted: Mounted) -> Mapping[str, Sample]:
            # curl has the file's address too.
            read("listing", mounted.root("large"))
            return measure(mounted)

        contenders = {**mounts(tuned), **(also or {})}
        return on_mounts(contenders, site, place, "large", after_listing)

    least = {LEAST: partial(mounted_least, name=f"large/{LARGE}", size=site.sizes.large)}
    return {
        "sequential": Workload(
            title=f"a file of {size} from end to end",
            about=about_tuned(RCLONE_THROUGH),
            turns={
                **on(near, _read_twice, RCLONE_THROUGH, least),
                CURL: lambda: read_with_curl(site, near),
                NATIVE: lambda: _native(site, lambda: read("sequential", site.large)),
            },
        ),
        "sequential-wan": Workload(
            title=f"a file of {size} from end to end, over the link",
            about=about_tuned(RCLONE_THROUGH),
            turns={
                **on(far, _read_once, RCLONE_THROUGH, least),
                CURL: lambda: read_with_curl(site, far),
            },
        ),
        "first-bytes-wan": Workload(
            title=f"the first 4 KiB of {size}, after ls, over the link",
            about=about_tuned(RCLONE_HERE_AND_THERE),
            turns={
                **on(far, lambda mounted: counted(site, lambda: _first_bytes(mounted))),
                "curl -r": lambda: counted(site, lambda: read_with_curl(site, far, "-r", "0-4095")),
            },
            note=lambda more: (
                f"{more['round_trips']:.2f} round trips, {told_moved(more)},"
                f" {more['connections']:.0f} new connections"
            ),
        ),
        "random": Workload(
            title=f"{reads:,} reads of 4 KiB anywhere in {size}",
            about=about_tuned(RCLONE_HERE_AND_THERE),
            turns=on(near, lambda mounted: _scattered(mounted, reads)),
            note=_slowest,
        ),
        "random-wan": Workload(
            title=f"{reads:,} reads of 4 KiB anywhere in {size}, over the link",
            about=about_tuned(RCLONE_HERE_AND_THERE),
            turns=on(far, lambda mounted: counted(site, lambda: _scattered(mounted, reads))),
            note=lambda more: f"{_slowest(more)}, {told_moved(more)}",
        ),
        "mmap": Workload(
            title=tensors, about=about_tuned(RCLONE_HERE_AND_THERE), turns=on(near, _tensors)
        ),
        "mmap-wan": Workload(
            title=f"{tensors}, over the link",
            about=about_tuned(RCLONE_HERE_AND_THERE),
            turns=on(far, lambda mounted: counted(site, lambda: _tensors(mounted))),
            note=lambda more: f"{told_moved(more)}, {more['moved_for_each']:.2f} for each wanted",
        ),
        "memory": Workload(
            title="resident memory after all of these in one mount",
            about=about_tuned(RCLONE_HERE_AND_THERE),
            turns=on(near, lambda mounted: _one_after_another(mounted, reads)),
            note=lambda more: f"resident {more['VmRSS'] / (1 << 20):.0f} MiB",
        ),
        "kernel-settings": Workload(
            title=f"a file of {size} from end to end, with and without root's kernel settings",
            turns={
                WBFS: lambda: _with_kernel_settings(site, None),
                KERNELS_OWN: lambda: _with_kernel_settings(site, KERNEL_DEFAULTS),
            },
            note=lambda more: ", ".join(f"{name} {more[name]:.0f}" for name in KERNEL_DEFAULTS),
        ),
    }


def _read_once(mounted: Mounted) -> dict[str, Sample]:
    return {"cold": read("sequential", mounted.root("large") / LARGE)}


def _read_twice(mounted: Mounted) -> dict[str, Sample]:
    cold = measured(mounted, _read_once)
    # What the first reading left to write and to check is not the second one's to wait for.
    os.sync()
    time.sleep(SETTLE_S)
    return cold | {"warm": read("sequential", mounted.root("large") / LARGE)}


def _first_bytes(mounted: Mounted) -> dict[str, Sample]:
    return {"cold": read("first", mounted.root("large") / LARGE)}


def _scattered(mounted: Mounted, reads: int) -> dict[str, Sample]:
    return {"cold": read("scattered", mounted.root("large") / LARGE, count=reads, seed=SEED)}


def _slowest(more: Mapping[str, float]) -> str:
    return f"slowest {more['slowest_s'] * 1000:.1f} ms"


def _tensors(mounted: Mounted) -> dict[str, Sample]:
    path = mounted.root("large") / LARGE
    return {"cold": read("tensors", path, share=TENSOR_SHARE, seed=SEED)}


def read_with_curl(site: Site, place: Place, *options: str) -> dict[str, Sample]:
    """Download the large file with curl, with nothing cached but by the server."""
    url = f"{place.plain_url}/large/{LARGE}"
    return {
        "cold": downloaded(
            site, "large", lambda state: fetch_with_curl(site, url, state / LARGE, *options)
        )
    }


def _native(site: Site, reading: Callable[[], Sample]) -> dict[str, Sample]:
    site.settle("large")
    return {"warm": reading()}


def _one_after_another(mounted: Mounted, reads: int) -> dict[str, Sample]:
    path = mounted.root("large") / LARGE
    samples = [
        read("scattered", path, count=reads, seed=SEED),
        read("tensors", path, share=TENSOR_SHARE, seed=SEED),
        read("sequential", path),
        read("folder", mounted.root("small"), seed=SEED),
    ]
    return {"after all": Sample(seconds=sum(sample.seconds for sample in samples))}


def _with_kernel_settings(site: Site, wanted: Mapping[str, int] | None) -> dict[str, Sample]:
    with scratch(site) as state:
        site.settle("large")
        with mounted_wbfs(site, site.near, state) as mounted:
            settings = kernel_settings(mounted.path, wanted)
            site.touch_memory("large")
            sample = read("sequential", mounted.root("large") / LARGE)
            return {"cold": replace(sample, more={**sample.more, **settings})}

"""The workloads of many small files near by, and of downloads of whole artifacts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmark.contenders import (
    ARIA2C,
    ARIA2C_CHECKED,
    BARE,
    CONNECTIONS,
    CURL,
    LEAST_GET,
    NATIVE,
    SDK,
    WBFS,
    WBFS_RUN,
)
from benchmark.contenders.downloads import (
    fetch_checked_with_aria2c,
    fetch_with_aria2c,
    fetch_with_curl,
    get_with_least,
    get_with_sdk,
    get_with_wbfs,
)
from benchmark.contenders.mounts import (
    RCLONE_SMALL,
    Mounted,
    MountIt,
    about_tuned,
    mounted_daemon,
    mounted_wbfs,
    mounts,
    scratch,
)
from benchmark.programs import read
from benchmark.samples import Sample, Workload
from benchmark.site import Site
from benchmark.site.data import LARGE
from benchmark.site.servers import Place
from benchmark.workloads.turns import SEED, downloaded, measured

ORDERS = (("in order", None), ("shuffled", SEED))


def small_workloads(site: Site) -> dict[str, Workload]:
    """Return the workloads by name."""
    size = f"{site.sizes.large / (1 << 20):,.0f} MiB"
    files = f"{site.sizes.small_files:,} files of {site.sizes.small_bytes >> 10} KiB"
    return {
        "small": Workload(
            title=f"{files}, listed and read",
            about=about_tuned(RCLONE_SMALL),
            turns={
                WBFS_RUN: partial(_small, site, partial(mounted_wbfs, options=("--run", "auto"))),
                **{name: partial(_small, site, how) for name, how in mounts(RCLONE_SMALL).items()},
                BARE: lambda: _bare_small(site),
                NATIVE: lambda: _native_small(site),
            },
            note=lambda more: f"listed in {more['list_s']:.2f} s",
        ),
        **{
            name: Workload(
                title=f"an artifact downloaded: one file of {size}, or {files}{where}",
                about=(
                    f"{ARIA2C}: {CONNECTIONS} connections; {CURL}: one; neither checks a digest."
                    f" {LEAST_GET}: three questions, the bytes, MD5 and two copies, no more"
                ),
                turns={
                    WBFS: partial(_get, site, place, get_with_wbfs),
                    SDK: partial(_get, site, place, get_with_sdk),
                    ARIA2C: partial(_fetch, site, place, fetch_with_aria2c),
                    ARIA2C_CHECKED: partial(_fetch, site, place, fetch_checked_with_aria2c),
                    CURL: partial(_fetch, site, place, fetch_with_curl),
                    LEAST_GET: partial(_get, site, place, get_with_least, ("large",)),
                },
                note=lambda more: (
                    f"{more['process_s']:.2f} s with its import" if "process_s" in more else ""
                ),
            )
            for name, place, where in (
                ("get", site.near, ""),
                ("get-wan", site.far, ", over the link"),
            )
        },
    }


def _small(site: Site, mount_it: MountIt) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for order, seed in ORDERS:
        samples |= _small_in_order(site, mount_it, order, seed)
    return samples


def _small_in_order(
    site: Site, mount_it: MountIt, order: str, seed: int | None
) -> dict[str, Sample]:
    def reading(mounted: Mounted) -> Sample:
        return read("folder", mounted.root("small"), seed=seed)

    with scratch(site) as state:
        site.settle("small")
        with mount_it(site, site.near, state) as mounted:
            samples = measured(mounted, lambda mounted: {f"{order}, cold": reading(mounted)})
        os.sync()
        with mount_it(site, site.near, state) as mounted:
            samples[f"{order}, disk cache"] = reading(mounted)
            samples |= _from_page_cache(order, reading(mounted))
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
                folder = mounted.root("small")
                read("folder", folder, seed=seed)
                samples |= _from_page_cache(order, read("folder", folder, seed=seed))
    return samples


def _native_small(site: Site) -> dict[str, Sample]:
    site.settle("small")
    samples: dict[str, Sample] = {}
    for order, seed in ORDERS:
        samples |= _from_page_cache(order, read("folder", site.plain / "small", seed=seed))
    return samples


def _get(
    site: Site,
    place: Place,
    get: Callable[[Site, Place, str, Path], Sample],
    names: Sequence[str] = ("large", "small"),
) -> dict[str, Sample]:
    return {name: downloaded(site, name, partial(get, site, place, name)) for name in names}


def _fetch(
    site: Site, place: Place, fetch: Callable[[Site, str, Path], Sample]
) -> dict[str, Sample]:
    url = f"{place.plain_url}/large/{LARGE}"
    return {"large": downloaded(site, "large", lambda state: fetch(site, url, state / LARGE))}

"""The workloads of training: many small files over the link, read as data loaders read them.

rclone reads a part of the files only, and its time is told as if it had gone on so: it would take
ten minutes and more. It lists all of them first, which for each file is a request of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench_contenders import (
    Failed,
    Sample,
    get_with_sdk,
    load,
    mounted_rclone,
    mounted_wbfs,
    scratch,
)
from bench_data import files_below
from bench_site import Site
from bench_workloads import NATIVE, SDK, SEED, WBFS, MountIt, Turn, Workload

RCLONE_DEFAULTS, RCLONE_TUNED = "rclone, defaults", "rclone, tuned"
TUNED = (
    *("--checkers", "64", "--dir-cache-time", "24h", "--attr-timeout", "24h"),
    *("--vfs-cache-max-age", "24h", "--vfs-fast-fingerprint", "--no-checksum", "--no-modtime"),
    *("--vfs-read-chunk-size", "1M", "--buffer-size", "0"),
)
"""What is recommended for small files that don't change. Without its HEAD requests
(--http-no-head) rclone knows no sizes, and all files are empty."""
PEERS: dict[str, MountIt] = {
    RCLONE_DEFAULTS: partial(mounted_rclone, cache_mode="off"),
    RCLONE_TUNED: partial(mounted_rclone, options=TUNED),
}
PEERS_FILES = 2_000
"""How many files rclone reads."""
READERS = 4
EPOCHS = 3

Pattern = Callable[[Path, int | None], Sample]
"""Reads a folder, or so many of its files."""
Cases = Callable[[Sample], dict[str, Sample]]
"""What is told of such a reading."""


def training_workloads(site: Site) -> dict[str, Workload]:
    """Return the workloads by name."""
    files = f"{site.sizes.train_files:,} files of 8 to 64 KiB, over the link"
    return {
        "in-order-wan": Workload(
            title=f"{files}: one reader, in order",
            turns=_turns(site, partial(_shares, processes=1, seed=None), _one_case),
            note=_note,
            once=True,
        ),
        "shuffled-wan": Workload(
            title=f"{files}: {READERS} readers, shuffled",
            turns=_turns(site, partial(_shares, processes=READERS, seed=SEED), _one_case),
            note=_note,
            once=True,
        ),
        "epochs-wan": Workload(
            title=f"{files}: a loader with {READERS} workers, {EPOCHS} epochs",
            turns=_turns(site, _epochs, _epoch_cases),
            note=_note,
            once=True,
        ),
    }


def _turns(site: Site, pattern: Pattern, cases: Cases) -> dict[str, Turn]:
    return {
        WBFS: partial(_on_mount, site, mounted_wbfs, pattern, cases, None),
        **{
            name: partial(_on_mount, site, how, pattern, cases, PEERS_FILES)
            for name, how in PEERS.items()
        },
        SDK: partial(_downloaded_first, site, pattern, cases),
        NATIVE: partial(_on_disk, site, pattern, cases),
    }


def _on_mount(
    site: Site, mount_it: MountIt, pattern: Pattern, cases: Cases, limit: int | None
) -> dict[str, Sample]:
    with scratch(site) as state:
        site.settle("train")
        with mount_it(site, site.far, state) as mounted:
            sample = _all_of_them(_checked(site, pattern(mounted.folders["train"], limit)))
            return cases(replace(sample, more={**sample.more, **mounted.memory()}))


def _checked(site: Site, sample: Sample) -> Sample:
    """Return a sample once it is sure that everything was there to be read. Raises Failed."""
    listed, passes = sample.more["listed"], sample.count // sample.more["read"]
    sizes = sum(path.stat().st_size for path in files_below(site.plain / "train"))
    if listed != site.sizes.train_files:
        raise Failed(f"{listed:.0f} files were listed of {site.sizes.train_files}")
    if sample.more["read"] == listed and sample.bytes != sizes * passes:
        raise Failed(f"{sample.bytes} bytes were read of {sizes * passes:.0f}")
    return sample


def _all_of_them(sample: Sample) -> Sample:
    """Return what reading all files would have taken, from a reading of some."""
    more = dict(sample.more)
    share = more["read"] / more["listed"]
    listed = more["list_s"]

    def stretch(seconds: float) -> float:
        return listed + (seconds - listed) / share

    # The first epoch has the listing in it, the others don't.
    for name in more:
        if name == "epoch_1_s":
            more[name] = stretch(more[name])
        elif name.startswith("epoch_"):
            more[name] /= share
    return replace(
        sample,
        seconds=stretch(sample.seconds),
        bytes=round(sample.bytes / share),
        count=round(sample.count / share),
        more=more,
    )


def _downloaded_first(site: Site, pattern: Pattern, cases: Cases) -> dict[str, Sample]:
    """Download with the SDK, then read the copy: both together are what is told."""
    with scratch(site) as state:
        site.settle("train")
        download = get_with_sdk(site, "train", state, site.far)
        copy = _checked(site, pattern(state / "got", None))
    before = {"first_batch_s", "epoch_1_s"} & copy.more.keys()
    more = {name: copy.more[name] + download.seconds for name in before}
    return cases(
        replace(
            copy,
            seconds=copy.seconds + download.seconds,
            more={**copy.more, **more, "download_s": download.seconds},
        )
    )


def _on_disk(site: Site, pattern: Pattern, cases: Cases) -> dict[str, Sample]:
    site.settle("train")
    return cases(_checked(site, pattern(site.plain / "train", None)))


def _shares(path: Path, limit: int | None, *, processes: int, seed: int | None) -> Sample:
    return load("shares", path, processes=processes, seed=seed, limit=limit)


def _epochs(path: Path, limit: int | None) -> Sample:
    return load("epochs", path, workers=READERS, epochs=EPOCHS, seed=SEED, limit=limit)


def _one_case(sample: Sample) -> dict[str, Sample]:
    return {"cold": sample}


def _epoch_cases(sample: Sample) -> dict[str, Sample]:
    count, size = sample.count // EPOCHS, sample.bytes // EPOCHS
    epochs = {
        f"epoch {number}": replace(
            sample, seconds=sample.more[f"epoch_{number}_s"], count=count, bytes=size
        )
        for number in range(1, EPOCHS + 1)
    }
    first = replace(sample, seconds=sample.more["first_batch_s"], count=0, bytes=0)
    return {"first batch": first, **epochs}


def _note(more: Mapping[str, float]) -> str:
    told = [f"listed in {more['list_s']:.2f} s"]
    if "download_s" in more:
        told.append(f"downloaded in {more['download_s']:.1f} s")
    if more["read"] < more["listed"]:
        told.append(f"of {more['read']:,.0f} files, times {more['listed'] / more['read']:.1f}")
    if "VmHWM" in more:
        told.append(f"{more['VmHWM'] / (1 << 20):.0f} MiB at its peak")
    return ", ".join(told)

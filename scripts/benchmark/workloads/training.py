"""The workloads of training: many small files over the link, read as data loaders read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmark.contenders import BARE, CURL, LEAST_BATCH, NATIVE, RCLONE_DEFAULTS, SDK
from benchmark.contenders.downloads import (
    fetch_batch_with_least,
    fetch_in_turn_with_curl,
    get_with_sdk,
)
from benchmark.contenders.mounts import (
    RCLONE_SMALL,
    about_tuned,
    mounted_daemon,
    mounts,
    scratch,
)
from benchmark.programs import load
from benchmark.programs.loader import BATCH_FILES, files_of, shuffled
from benchmark.samples import Failed, Sample, Turn, Workload
from benchmark.site import Site
from benchmark.site.data import files_below
from benchmark.workloads.turns import SEED, downloaded, on_mounts

READERS = 4
EPOCHS = 2
ONCE_LISTED = "the same, once listed"

Pattern = Callable[[Path], Sample]
"""Reads a folder."""
Cases = Callable[[Sample], dict[str, Sample]]
"""What is told of such a reading."""


def training_workloads(site: Site) -> dict[str, Workload]:
    """Return the workloads by name."""
    epochs = partial(_epochs, workers=READERS, epochs=EPOCHS, batches=None)
    files = f"{site.sizes.train_files:,} files of 8 to 64 KiB, over the link"

    def workload(
        title: str,
        pattern: Pattern,
        cases: Cases,
        *,
        limit: Mapping[str, Turn] | None = None,
        without: str = "",
    ) -> Workload:
        turns = {**_turns(site, pattern, cases), **(limit or {})}
        turns.pop(without, None)
        return Workload(
            title=f"{files}: {title}", about=about_tuned(RCLONE_SMALL), turns=turns, note=_note
        )

    return {
        "in-order-wan": workload(
            "one reader, in order", partial(_shares, processes=1, seed=None), _one_case
        ),
        "shuffled-wan": workload(
            f"{READERS} readers, shuffled",
            partial(_shares, processes=READERS, seed=SEED),
            _one_case,
        ),
        "first-batch-wan": workload(
            "a loader with one worker, its first batch",
            partial(_epochs, workers=1, epochs=1, batches=1),
            _batch_cases,
            # The round trips, one after another, of who reads so and fetches nothing ahead.
            limit={CURL: partial(_in_turn, site), LEAST_BATCH: partial(_least_batch, site)},
        ),
        "epochs-wan": workload(
            f"a loader with {READERS} workers, {EPOCHS} epochs",
            epochs,
            _epoch_cases,
            # What the second epoch takes of kernel, pyfuse3 and readers; its first has no link.
            limit=on_mounts(
                {BARE: partial(mounted_daemon, name="train")},
                site,
                site.near,
                "train",
                lambda mounted: _again(_checked(site, epochs(mounted.root("train")))),
            ),
            # Of it, each epoch takes a minute or more, and tells no more than the shuffled readers.
            without=RCLONE_DEFAULTS,
        ),
    }


def _turns(site: Site, pattern: Pattern, cases: Cases) -> dict[str, Turn]:
    return {
        **on_mounts(
            mounts(RCLONE_SMALL),
            site,
            site.far,
            "train",
            lambda mounted: cases(_checked(site, pattern(mounted.root("train")))),
        ),
        SDK: partial(_downloaded_first, site, pattern, cases),
        NATIVE: partial(_on_disk, site, pattern, cases),
    }


def _checked(site: Site, sample: Sample) -> Sample:
    """Return a sample once it is sure that everything was there to be read. Raises Failed."""
    listed, passes = sample.more["listed"], sample.count / site.sizes.train_files
    sizes = sum(path.stat().st_size for path in files_below(site.plain / "train"))
    if listed != site.sizes.train_files:
        raise Failed(f"{listed:.0f} files were listed of {site.sizes.train_files}")
    if passes >= 1 and sample.bytes != sizes * passes:
        raise Failed(f"{sample.bytes} bytes were read of {sizes * passes:.0f}")
    return sample


def _downloaded_first(site: Site, pattern: Pattern, cases: Cases) -> dict[str, Sample]:
    """Download with the SDK, then read the copy: both together are what is told."""
    with scratch(site) as state:
        site.settle("train")
        download = get_with_sdk(site, site.far, "train", state)
        copy = _checked(site, pattern(state / "got"))
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
    return cases(_checked(site, pattern(site.plain / "train")))


def _in_turn(site: Site) -> dict[str, Sample]:
    """Fetch a batch of files by their own URLs, one after another over one connection."""
    site.settle("train")
    train = site.plain / "train"
    paths = files_of(str(train))
    chosen = [paths[index] for index in shuffled(len(paths), SEED + 1)[:BATCH_FILES]]
    names = [Path(path).relative_to(train) for path in chosen]
    sample = fetch_in_turn_with_curl(site, [f"{site.far.plain_url}/train/{name}" for name in names])
    return {ONCE_LISTED: sample}


def _least_batch(site: Site) -> dict[str, Sample]:
    """Ask what has to be asked, and fetch the same batch."""
    sample = downloaded(
        site, "train", lambda state: fetch_batch_with_least(site, state, seed=SEED + 1)
    )
    whole = replace(sample, more={**sample.more, "first_batch_s": sample.seconds})
    return _batch_cases(whole)


def _again(sample: Sample) -> dict[str, Sample]:
    last = f"epoch {EPOCHS}"
    return {last: _epoch_cases(sample)[last]}


def _shares(path: Path, *, processes: int, seed: int | None) -> Sample:
    return load("shares", path, processes=processes, seed=seed)


def _epochs(path: Path, *, workers: int, epochs: int, batches: int | None) -> Sample:
    return load("epochs", path, workers=workers, epochs=epochs, seed=SEED, batches=batches)


def _one_case(sample: Sample) -> dict[str, Sample]:
    return {"cold": sample}


def _batch_cases(sample: Sample) -> dict[str, Sample]:
    whole = sample.more["first_batch_s"]
    return {
        "first batch": replace(sample, seconds=whole),
        ONCE_LISTED: replace(sample, seconds=whole - sample.more["list_s"]),
    }


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
    told = [f"listed in {more['list_s']:.2f} s"] if "list_s" in more else []
    if "download_s" in more:
        told.append(f"downloaded in {more['download_s']:.1f} s")
    return ", ".join(told)

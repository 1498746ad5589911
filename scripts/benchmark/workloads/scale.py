"""The workloads of scale: walks over many entries, a million of them, memory, a mount's start."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from large_manifest import LARGE_FOLDER, file_name, folder_name
from mounts import check

from benchmark.contenders import BARE, NATIVE, RCLONE_DEFAULTS, WBFS
from benchmark.contenders.mounts import (
    RCLONE_SMALL,
    Mounted,
    MountIt,
    about_tuned,
    descendants,
    mounted_daemon,
    mounted_rclone,
    mounted_wbfs,
    mounts,
    scratch,
)
from benchmark.programs import LIMIT_S, load, read
from benchmark.samples import Failed, Sample, Workload
from benchmark.site import Site
from benchmark.site.data import FOLDER_FILES, million_shape
from benchmark.workloads.training import EPOCHS, READERS
from benchmark.workloads.turns import SEED

WALKS = {
    "find": 'find "$0" | wc -l',
    "ls -lR": 'ls -lR "$0" | wc -l',
    "du -s": 'du -s "$0" >/dev/null',
}
STATS, OPENED = 1_000, 100
RESET_PEAK = "5"
SAMPLING_S = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def scale_workloads(site: Site) -> dict[str, Workload]:
    """Return the workloads by name."""
    walked: dict[str, MountIt] = {
        WBFS: mounted_wbfs,
        RCLONE_DEFAULTS: mounted_rclone,
        BARE: partial(mounted_daemon, name="tree"),
    }
    million = f"a version of {site.sizes.million_files:,} entries"
    return {
        "walk": Workload(
            title=f"{site.sizes.tree_files:,} entries in folders of {FOLDER_FILES:,}, walked twice",
            turns={
                **{name: partial(_walks, site, how) for name, how in walked.items()},
                NATIVE: lambda: _native_walks(site),
            },
        ),
        "million": Workload(
            title=f"{million}, from mount on",
            turns={WBFS: lambda: _million(site)},
            note=_told,
        ),
        "stages": Workload(
            title=f"the daemon's memory after each of these in one mount, with {million}",
            turns={WBFS: lambda: _stages(site)},
            note=_told,
        ),
        "start": Workload(
            title="from the mount command to the first ls, with an empty cache and again",
            about=about_tuned(RCLONE_SMALL),
            turns={name: partial(_start, site, how) for name, how in mounts(RCLONE_SMALL).items()},
        ),
    }


def _walks(site: Site, mount_it: MountIt) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for name in WALKS:
        with scratch(site) as state:
            site.forget()
            with mount_it(site, site.near, state) as mounted:
                for when in ("cold", "again"):
                    samples[f"{name}, {when}"] = _walk(site, name, mounted.root("tree"))
    return samples


def _native_walks(site: Site) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for name in WALKS:
        site.forget()
        for when in ("cold", "again"):
            samples[f"{name}, {when}"] = _walk(site, name, site.plain / "tree")
    return samples


def _walk(site: Site, name: str, folder: Path) -> Sample:
    files = site.sizes.tree_files
    began = time.perf_counter()
    printed = check("sh", "-c", WALKS[name], folder, timeout_s=LIMIT_S)
    seconds = time.perf_counter() - began
    if printed and int(printed) < files:
        raise Failed(f"{name} found {printed.strip()} entries of {files}")
    return Sample(seconds=seconds, count=files)


def _million(site: Site) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    folders, files, _ = million_shape(site.sizes)
    chance = random.Random(SEED)
    paths = [
        f"{folder_name(chance.randrange(folders))}/{file_name(chance.randrange(files))}"
        for _ in range(STATS + OPENED)
    ]
    with scratch(site) as state:
        for name, part in (("stat", paths[:STATS]), ("open", paths[STATS:])):
            (state / name).write_text("\n".join(part))
        with _first_listing(site, state, samples, "first ls, no cache") as mounted:
            root = mounted.root("million")

            def measure(case: str, what: Callable[[], Sample]) -> None:
                with _peaks(mounted) as peaks:
                    sample = what()
                samples[case] = replace(sample, more={**mounted.figures(), **peaks})

            measure("stat", lambda: read("stats", root, names=str(state / "stat")))
            measure("open, read", lambda: read("opens", root, names=str(state / "open")))
            measure("ls of a folder", lambda: read("listing", root / folder_name(folders // 2)))
            measure("ls of the largest", lambda: read("listing", root / LARGE_FOLDER))
            measure("find", lambda: _find(root))
            measure("find, again", lambda: _find(root))
        with _first_listing(site, state, samples, "first ls, 2nd mount"):
            pass
    return samples


@contextmanager
def _first_listing(
    site: Site, state: Path, samples: dict[str, Sample], case: str
) -> Iterator[Mounted]:
    """Mount, list the version's root, and keep what both took together."""
    began = time.perf_counter()
    with mounted_wbfs(site, site.near, state) as mounted:
        with _peaks(mounted) as peaks:
            listed = read("listing", mounted.root("million"))
            seconds = time.perf_counter() - began
        more = {"list_s": listed.seconds, **mounted.figures(), **peaks}
        samples[case] = Sample(seconds=seconds, count=listed.count, more=more)
        yield mounted


def _find(folder: Path) -> Sample:
    began = time.perf_counter()
    count = int(check("sh", "-c", WALKS["find"], folder, timeout_s=LIMIT_S))
    return Sample(seconds=time.perf_counter() - began, count=count)


def _stages(site: Site) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    with scratch(site) as state, mounted_wbfs(site, site.near, state) as mounted:
        root = mounted.root
        stages: dict[str, Callable[[], object]] = {
            "mounted": lambda: read("listing", mounted.path),
            "tree walked": lambda: _find(root("tree")),
            "million loaded": lambda: read("listing", root("million")),
            "million walked": lambda: _find(root("million")),
            "walked again": lambda: _find(root("million")),
            f"{EPOCHS} epochs read": lambda: load(
                "epochs", root("train"), workers=READERS, epochs=EPOCHS, seed=SEED, batches=None
            ),
        }
        for name, stage in stages.items():
            began = time.perf_counter()
            with _peaks(mounted) as peaks:
                stage()
            seconds = time.perf_counter() - began
            samples[name] = Sample(seconds=seconds, more={**mounted.figures(), **peaks})
    return samples


@contextmanager
def _peaks(mounted: Mounted) -> Iterator[dict[str, float]]:
    """Begin the daemon's peak anew, and watch what its helpers take, which is added in the end."""
    Path(f"/proc/{mounted.pid}/clear_refs").write_text(RESET_PEAK)
    peaks = {"helpers": 0.0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLING_S):
            resident = sum(map(_resident, descendants(mounted.pid)))
            peaks["helpers"] = max(peaks["helpers"], resident)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peaks
    finally:
        ended.set()
        watching.join()


def _resident(pid: int) -> float:
    # It may end meanwhile.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0.0


def _start(site: Site, mount_it: MountIt) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    with scratch(site) as state:
        for case in ("empty cache", "again"):
            began = time.perf_counter()
            with mount_it(site, site.near, state) as mounted:
                check("ls", mounted.path)
                seconds = time.perf_counter() - began
            samples[case] = Sample(seconds=seconds, more={"first_answer_s": seconds})
    return samples


def _told(more: Mapping[str, float]) -> str:
    told = [f"resident {more['VmRSS'] / (1 << 20):.0f} MiB"]
    if "list_s" in more:
        told.append(f"ls itself {more['list_s']:.2f} s")
    return ", ".join(told)

"""Growth: what each cost is at one, ten and a hundred times a size, and how it grows with it.

A turn measures all costs at one size. Costs that are the same at every size are welcome here, too:
that they are is what is to be known.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from large_manifest import LARGE_FOLDER, file_name, folder_name
from mounts import WBFS as COMMAND
from mounts import check

from benchmark.contenders.mounts import mounted_wbfs, scratch
from benchmark.findings import Findings
from benchmark.programs import LIMIT_S, load, read
from benchmark.samples import Sample, Workload
from benchmark.site import Site
from benchmark.site.data import files_below
from benchmark.site.growing import FACTORS, FOLDER_FILES, VERSIONS_SHARE
from benchmark.workloads.turns import SEED

GROWTH = "growth"
SOME = 100
"""How many files are opened, or looked at, whatever the size is."""
READERS = 2
"""How many there are at once at the least size."""
READ_BY_EACH = 50
FLOOR_S = 0.02
"""What takes less is taken for as much: it tells of the machine's other work."""
MIB = 1 << 20

Costs = dict[str, Sample]


def growth_workload(site: Site) -> Workload:
    """Return the workload: its contenders are the sizes, its cases the costs."""
    turns = {f"{factor} x": partial(_turn, site, factor) for factor in FACTORS}
    return Workload(title="each cost at growing sizes", turns=turns)


def growth_rows(findings: Findings) -> list[tuple[str, str, bool]]:
    """Return for each cost its name, what it is at each size, and whether it grows by n log n.

    By no more than that, from the last size but one to the largest.
    """
    found: dict[str, dict[int, float]] = {}
    for case, _, samples in findings.of(GROWTH):
        size = samples[0].count
        seconds = statistics.median(sample.seconds for sample in samples)
        found.setdefault(case, {})[size] = max(seconds, FLOOR_S)
        if "VmHWM" in samples[0].more:
            memory = statistics.median(sample.more["VmHWM"] for sample in samples) / MIB
            name = f"{case.partition(':')[0]}: memory at its peak"
            found.setdefault(name, {})[size] = memory
    return [_row(name, by_size) for name, by_size in found.items()]


def growth_table(findings: Findings) -> str:
    """Return the growth of all costs, for people."""
    lines = [f"{GROWTH}: each cost at its sizes, and the power of the size that it last grows by"]
    for name, text, passed in growth_rows(findings):
        lines.append(f"  {name:<46}{text}{'' if passed else '  FAIL'}")
    lines += [
        f"  {size}: FAILED: {reason}"
        for (workload, size), reason in findings.failed.items()
        if workload == GROWTH
    ]
    return "\n".join(lines)


def _row(name: str, by_size: Mapping[int, float]) -> tuple[str, str, bool]:
    unit, digits = ("MiB", 0) if name.endswith("memory at its peak") else ("s", 2)
    sizes = sorted(by_size)
    told = [f"{size:>9,}: {by_size[size]:>7.{digits}f} {unit}" for size in sizes]
    if len(sizes) < 2:
        return name, "".join(told), False
    before, last = sizes[-2:]
    times = by_size[last] / by_size[before]
    power = math.log(times) / math.log(last / before)
    allowed = last * math.log(last) / (before * math.log(before))
    return name, f"{''.join(told)}   power {power:.2f}", times <= allowed


def _turn(site: Site, factor: int) -> Mapping[str, Sample]:
    files = site.sizes.growing * factor
    trained = site.sizes.train_files * factor // FACTORS[-1]
    dimensions: dict[str, tuple[Callable[[Site, Path, int], Costs], int]] = {
        "files in a folder": (_flat, files),
        "files in a version": (_deep, files),
        "versions": (_versions, files // VERSIONS_SHARE),
        "open files": (_open, trained),
        "readers at once": (_readers, READERS * factor),
        "cached files": (_cached, files),
    }
    samples: dict[str, Sample] = {}
    for dimension, (measure, size) in dimensions.items():
        with scratch(site) as state:
            site.forget()
            for cost, sample in measure(site, state, size).items():
                samples[f"{dimension}: {cost}"] = replace(sample, count=size)
    return samples


def _flat(site: Site, state: Path, files: int) -> Costs:
    chosen = _names(state, [file_name(number) for number in _some(files)])
    with mounted_wbfs(site, site.near, state) as mounted:
        folder = mounted.root(f"flat-{files}") / LARGE_FOLDER
        costs = {
            "first look": read("stats", folder, names=_names(state, [file_name(0)])),
            "ls": read("listing", folder),
            "ls again": read("listing", folder),
            "ls -l": _timed("ls", "-l", str(folder)),
            f"{SOME} opened": read("opens", folder, names=chosen),
        }
        again = read("opens", folder, names=chosen)
        return costs | {f"{SOME} opened again": replace(again, more=mounted.figures())}


def _deep(site: Site, state: Path, files: int) -> Costs:
    folders = max(1, files // FOLDER_FILES)
    paths = [
        f"{folder_name(number // FOLDER_FILES)}/{file_name(number % FOLDER_FILES)}"
        for number in _some(files)
    ]
    with mounted_wbfs(site, site.near, state) as mounted:
        root = mounted.root(f"deep-{files}")
        costs = {
            "first ls": read("listing", root),
            "ls of a folder": read("listing", root / folder_name(folders // 2)),
            f"{SOME} looked at": read("stats", root, names=_names(state, paths)),
            "find": _timed("find", str(root)),
            "find again": _timed("find", str(root)),
        }
        return costs | {
            "cache list": _commanded(site, state, "list", more=mounted.figures()),
        }


def _versions(site: Site, state: Path, versions: int) -> Costs:
    with mounted_wbfs(site, site.near, state) as mounted:
        collection = mounted.root(f"versions-{versions}").parent
        return {
            "one by name": _timed("ls", str(collection / f"v{versions - 1}")),
            "ls": read("listing", collection),
            "ls -l again": replace(_timed("ls", "-l", str(collection)), more=mounted.figures()),
        }


def _open(site: Site, state: Path, files: int) -> Costs:
    folder = site.plain / "train"
    names = [str(path.relative_to(folder)) for path in files_below(folder)]
    chosen = _names(state, sorted(names)[:files])
    with mounted_wbfs(site, site.near, state) as mounted:
        read("opens", mounted.root("train"), names=chosen)
        held = read("held", mounted.root("train"), names=chosen, count=SOME)
        meanwhile = Sample(seconds=held.more["meanwhile_s"])
        figures = mounted.figures()
        return {"opened": held, f"{SOME} opened besides": replace(meanwhile, more=figures)}


def _readers(site: Site, state: Path, readers: int) -> Costs:
    with mounted_wbfs(site, site.near, state) as mounted:
        folder = mounted.root("train")
        costs = {
            name: load("crowd", folder, processes=readers, count=READ_BY_EACH)
            for name in ("cold", "warm")
        }
        return costs | {"warm": replace(costs["warm"], more=mounted.figures())}


def _cached(site: Site, state: Path, files: int) -> Costs:
    _fill_cache(state / "cache", files)
    kept = files // 2 * os.stat(state).st_blksize
    began = time.perf_counter()
    with mounted_wbfs(site, site.near, state) as mounted:
        read("listing", mounted.path)
        costs = {"mount and ls": Sample(seconds=time.perf_counter() - began)}
        costs["new ones read"] = load("crowd", mounted.root("train"), processes=1, count=SOME)
        costs["cache info"] = _commanded(site, state, "info")
        costs["cache verify"] = _commanded(site, state, "verify")
        costs["half evicted"] = _commanded(
            site, state, "prune", "--to", str(kept), more=mounted.figures()
        )
    return costs


def _fill_cache(cache: Path, files: int) -> None:
    """Put that many small blobs into a new cache folder, as wbfs would have left them."""
    cache.mkdir(mode=0o700)
    for number in range(files):
        content = f"cached {number}\n".encode()
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        folder = cache / "blobs" / digest[:2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"md5-{digest}").write_bytes(content)


def _some(files: int) -> list[int]:
    chance = random.Random(SEED)
    return [chance.randrange(files) for _ in range(SOME)]


def _names(state: Path, names: list[str]) -> str:
    """Write names to a new file, one a line, as `reader` takes them; return its path."""
    file = state / f"names-{len(list(state.glob('names-*')))}"
    file.write_text("\n".join(names))
    return str(file)


def _timed(*command: str) -> Sample:
    began = time.perf_counter()
    check(*command, timeout_s=LIMIT_S)
    return Sample(seconds=time.perf_counter() - began)


def _commanded(
    site: Site, state: Path, *arguments: str, more: Mapping[str, float] | None = None
) -> Sample:
    """Time a `wbfs cache` command on the turn's cache."""
    env = site.env(site.near, state / "home") | {"WBFS_CACHE_DIR": str(state / "cache")}
    began = time.perf_counter()
    check(*COMMAND, "cache", *arguments, env=env, timeout_s=LIMIT_S)
    return Sample(seconds=time.perf_counter() - began, more=more or {})

"""What downloads: curl, aria2c, the SDK and `wbfs get`, each into a folder of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mounts import WBFS as COMMAND
from mounts import run

from benchmark.contenders import CONNECTIONS
from benchmark.contenders.mounts import least_processes
from benchmark.programs import LEAST_BATCH, LEAST_GET, LIMIT_S, LONG_LIMIT_S, sample_of
from benchmark.samples import Failed, Sample
from benchmark.site import Site
from benchmark.site.data import LARGE, files_below
from benchmark.site.servers import Place

DOWNLOAD = """
import json
import sys
import time
import wandb
began = time.perf_counter()
wandb.Api().artifact(sys.argv[1]).download(root=sys.argv[2])
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def fetch_with_curl(site: Site, url: str, target: Path, *options: str) -> Sample:
    """Download with curl, timed by itself from its start on. Raises Failed."""
    command = ["curl", "-sS", "--fail", "--noproxy", "*", *site.trusting("--cacert"), *options]
    command += ["-w", "%{time_total} %{size_download}", "-o", str(target), url]
    done = run(*command, timeout_s=LIMIT_S)
    if done.returncode:
        raise Failed(f"curl: {done.stderr.strip()}")
    seconds, size = done.stdout.split()
    return Sample(seconds=float(seconds), bytes=int(size))


def fetch_in_turn_with_curl(site: Site, urls: Sequence[str]) -> Sample:
    """Download files one after another over one connection: the whole command is timed.

    Raises Failed.
    """
    command = ["curl", "-sS", "--fail", "--noproxy", "*", *site.trusting("--cacert")]
    command += [
        "-w",
        "%{size_download}\\n",
        *(word for url in urls for word in ("-o", os.devnull, url)),
    ]
    began = time.perf_counter()
    done = run(*command, timeout_s=LIMIT_S)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise Failed(f"curl: {done.stderr.strip()}")
    sizes = [int(size) for size in done.stdout.split()]
    return Sample(seconds=seconds, bytes=sum(sizes), count=len(sizes))


def fetch_with_aria2c(site: Site, url: str, target: Path, *options: str) -> Sample:
    """Download with aria2c: the whole command is timed. Raises Failed."""
    command = ["aria2c", "--no-conf", "--no-proxy=*", "--quiet", *site.trusting("--ca-certificate")]
    command += [f"-x{CONNECTIONS}", f"-s{CONNECTIONS}", "--file-allocation=none"]
    command += [*options, "-d", str(target.parent), "-o", target.name, url]
    return _timed(command, target, "aria2c")


def fetch_checked_with_aria2c(site: Site, url: str, target: Path) -> Sample:
    """Download with aria2c, which checks the digest as wbfs does, once it has all of the file."""
    return fetch_with_aria2c(site, url, target, f"--checksum=md5={site.large_md5}")


def get_with_least(site: Site, place: Place, name: str, state: Path) -> Sample:
    """Download an artifact's one file with what does the least: the whole command is timed.

    Raises Failed.
    """
    command = [sys.executable, str(LEAST_GET), *site.version(name).split("/"), LARGE]
    command += [str(state / "cached"), str(state / LARGE), str(least_processes(site, place))]
    env = site.env(place, state / "home")
    return _timed(command, state / LARGE, "the least download", env)


def fetch_batch_with_least(site: Site, state: Path, *, seed: int) -> Sample:
    """Fetch a loader's first batch over the link with what does the least. Raises Failed."""
    command = [sys.executable, str(LEAST_BATCH), *site.version("train").split("/"), str(seed)]
    done = run(*command, env=site.env(site.far, state / "home"), timeout_s=LIMIT_S)
    if done.returncode:
        raise Failed(f"the least batch: {done.stderr.strip()[-500:]}")
    return sample_of(done.stdout)


def _timed(
    command: Sequence[str], target: Path, who: str, env: Mapping[str, str] | None = None
) -> Sample:
    """Have a command download one file, which is timed as a whole. Raises Failed."""
    began = time.perf_counter()
    done = run(*command, env=env, timeout_s=LIMIT_S)
    seconds = time.perf_counter() - began
    if done.returncode:
        # aria2c says on its output what went wrong.
        raise Failed(f"{who}: {(done.stderr or done.stdout).strip()[-500:]}")
    return Sample(seconds=seconds, bytes=target.stat().st_size)


def get_with_wbfs(site: Site, place: Place, name: str, state: Path) -> Sample:
    """Download an artifact with `wbfs get`: the whole command is timed. Raises Failed."""
    env = site.env(place, state / "home") | {"WBFS_CACHE_DIR": str(state / "cache")}
    command = [*COMMAND, "get", site.address(name), "--root", str(state / "got")]
    began = time.perf_counter()
    done = run(*command, env=env, timeout_s=LONG_LIMIT_S)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise Failed(f"wbfs get: {done.stderr.strip()[-500:]}")
    return _downloaded(site, name, state / "got", seconds, {})


def get_with_sdk(site: Site, place: Place, name: str, state: Path) -> Sample:
    """Download an artifact with the SDK; the time that importing it takes is not counted."""
    env = site.env(place, state / "home")
    began = time.perf_counter()
    command = [sys.executable, "-c", DOWNLOAD, site.address(name), str(state / "got")]
    done = run(*command, env=env, timeout_s=LONG_LIMIT_S)
    process_s = time.perf_counter() - began
    if done.returncode:
        raise Failed(f"artifact.download(): {done.stderr.strip()[-500:]}")
    seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
    return _downloaded(site, name, state / "got", seconds, {"process_s": process_s})


def _downloaded(
    site: Site, name: str, folder: Path, seconds: float, more: dict[str, float]
) -> Sample:
    """Return the sample of a download, once all files are there. Raises Failed."""
    sizes, expected = (
        {path.relative_to(where): path.stat().st_size for path in files_below(where)}
        for where in (folder, site.plain / name)
    )
    if sizes != expected:
        raise Failed(f"{len(sizes)} files were downloaded of {name}, and not its {len(expected)}")
    return Sample(seconds=seconds, bytes=sum(sizes.values()), count=len(sizes), more=more)

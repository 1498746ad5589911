"""What mounts: wbfs, rclone, and a daemon that does nothing but answer."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mounts import Mount, run, wait_until

from benchmark.contenders import CONNECTIONS, RCLONE_DEFAULTS, RCLONE_TUNED, WBFS
from benchmark.contenders.kernel import read_ahead_as_wbfs
from benchmark.programs import DAEMON
from benchmark.programs import LEAST as LEAST_DAEMON
from benchmark.samples import Failed
from benchmark.site import Site
from benchmark.site.servers import Place
from wbfs.fetch.apart.carriers import carriers_for, processors

MOUNT_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
TURN = "turn-"
"""What the names of turns' folders begin with."""
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

# What is recommended for files that don't change. Without its HEAD requests (--http-no-head)
# rclone knows no sizes, and all files are empty.
_UNCHANGED = (
    *("--vfs-cache-mode", "full", "--checkers", "64", "--dir-cache-time", "24h"),
    *("--attr-timeout", "24h", "--vfs-cache-max-age", "24h", "--vfs-fast-fingerprint"),
    *("--no-checksum", "--no-modtime"),
)
RCLONE_SMALL = (*_UNCHANGED, "--vfs-read-chunk-size", "1M", "--buffer-size", "0")
# Its documentation's for object stores. With its cache on disk it reads on half as fast.
RCLONE_THROUGH = ("--vfs-read-chunk-streams", "16", "--vfs-read-chunk-size", "4M")
RCLONE_HERE_AND_THERE = (*_UNCHANGED, *RCLONE_THROUGH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A mounted contender: its daemon's process, and where the artifacts are."""

    pid: int
    path: Path
    root: Callable[[str], Path]
    """The folder of an artifact's files."""

    def figures(self) -> dict[str, float]:
        """Return what the daemon takes.

        Its resident bytes now and at its peak, those of the processes that it has now, each at its
        peak, and the processor's seconds of all.
        """
        own, helpers = _memory(self.pid), [_memory(pid) for pid in descendants(self.pid)]
        return own | {
            "helpers": sum(one["VmHWM"] for one in helpers),
            "processor_s": sum(map(processor_s, (self.pid, *descendants(self.pid)))),
        }


MountIt = Callable[[Site, Place, Path], AbstractContextManager[Mounted]]
"""Mounts, with what it keeps below a folder."""


@contextmanager
def scratch(site: Site) -> Iterator[Path]:
    """Give a new folder for one turn, and remove it."""
    with tempfile.TemporaryDirectory(prefix=TURN, dir=site.home) as folder:
        yield Path(folder)


@contextmanager
def mounted_wbfs(
    site: Site, place: Place, state: Path, *, options: Sequence[str] = ()
) -> Iterator[Mounted]:
    """Mount wbfs; its cache and its log are below `state`."""
    mount = Mount(
        path=state / "wbfs",
        env=site.env(place, state / "home"),
        cache_dir=state / "cache",
        log_file=state / "wbfs.log",
        options=options,
    )
    try:
        yield Mounted(
            pid=mount.pid, path=mount.path, root=lambda name: mount.path / site.version(name)
        )
    finally:
        mount.take_down()


@contextmanager
def mounted_rclone(
    site: Site, place: Place, state: Path, *, options: Sequence[str] = ()
) -> Iterator[Mounted]:
    """Mount the plain files with rclone; its cache is below `state`."""
    path = state / "rclone"
    path.mkdir(exist_ok=True)
    log_file = state / "rclone.log"
    command = ["rclone", "mount", ":http:", str(path), "--http-url", f"{place.plain_url}/"]
    command += ["--config", "/dev/null", "--log-file", str(log_file), "--read-only"]
    command += [*site.trusting("--ca-cert"), "--cache-dir", str(state / "cache"), *options]
    with _mounted_by(command, path, log_file) as pid:
        yield Mounted(pid=pid, path=path, root=lambda name: path / name)


@contextmanager
def mounted_daemon(site: Site, _: Place, state: Path, *, name: str) -> Iterator[Mounted]:
    """Mount an artifact's files with the daemon that serves them from memory."""
    path = state / "daemon"
    path.mkdir()
    command = [sys.executable, str(DAEMON), str(site.plain / name), str(path)]
    with _mounted_by(command, path, state / "daemon.log") as pid:
        yield Mounted(pid=pid, path=path, root=lambda _: path)


@contextmanager
def mounted_least(
    site: Site, place: Place, state: Path, *, name: str, size: int
) -> Iterator[Mounted]:
    """Mount one file, by its path among the plain ones, with the daemon that does the least."""
    path = state / "least"
    path.mkdir()
    command = [sys.executable, str(LEAST_DAEMON), f"{place.plain_url}/{name}"]
    command += [str(site.ca_file or ""), str(size), str(state / "kept"), str(path)]
    command += [str(least_processes(site, place))]
    with _mounted_by(command, path, state / "least.log") as pid:
        read_ahead_as_wbfs(path)
        yield Mounted(pid=pid, path=path, root=lambda _: path)


def least_processes(site: Site, place: Place) -> int:
    """Return how many processes fetch for what does the least, each over one connection."""
    # Over the link one connection is slow: as many as wbfs has.
    return CONNECTIONS if place is site.far else max(1, carriers_for(processors()))


def mounts(tuned: Sequence[str]) -> dict[str, MountIt]:
    """Return the mounts to compare; `tuned` are rclone's best settings."""
    return {
        WBFS: mounted_wbfs,
        RCLONE_DEFAULTS: mounted_rclone,
        RCLONE_TUNED: partial(mounted_rclone, options=tuned),
    }


def about_tuned(tuned: Sequence[str]) -> str:
    """Say what rclone's best settings are."""
    return f"{RCLONE_TUNED}: {' '.join(tuned)}"


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they did."""
    found = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        # Threads and processes end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, listed.read_text().split()):
                found += [child, *descendants(child)]
    return found


def _memory(pid: int) -> dict[str, float]:
    names = ("VmRSS", "VmHWM")
    # It may end meanwhile.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {name: int(fields[name].split()[0]) * 1024.0 for name in names}
    return dict.fromkeys(names, 0.0)


def processor_s(pid: int) -> float:
    """Return what a process took of the processor, and what those of its that ended did."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS_A_SECOND
    return 0.0


@contextmanager
def _mounted_by(command: Sequence[str], path: Path, log_file: Path) -> Iterator[int]:
    """Run a program that mounts something at `path`; give its process. Raises Failed."""
    with log_file.open("a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_without_proxy()
        )
    try:
        wait_until(
            lambda: process.poll() is not None or path.is_mount(),
            timeout_s=MOUNT_TIMEOUT_S,
            what=f"{command[0]} has mounted",
        )
        if process.poll() is not None:
            raise Failed(f"{command[0]} can't mount: {log_file.read_text()[-500:]}")
        yield process.pid
    finally:
        run("fusermount3", "-u", "-z", path)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)


def _without_proxy() -> dict[str, str]:
    """Return the environment without proxies, which have nothing to do with loopback."""
    return {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}

"""The contenders: wbfs and rclone as mounts, curl, the SDK; each turn starts with empty caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench_data import files_below
from bench_site import Place, Site
from mounts import WBFS, Mount, run, wait_until

LIMIT_S = 300.0
"""Of one reading, or one download."""
LONG_LIMIT_S = 1500.0
"""Of reading or downloading tens of thousands of files over the link."""
MOUNT_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
TURN = "turn-"
"""What the names of turns' folders begin with."""
READER = Path(__file__).with_name("bench_reader.py")
LOADER = Path(__file__).with_name("bench_loader.py")
DAEMON = Path(__file__).with_name("bench_daemon.py")
FUSE_CONTROL = "/sys/fs/fuse/connections"
KERNEL_DEFAULTS = {"read_ahead_kb": 128, "max_background": 12, "congestion_threshold": 9}
DOWNLOAD = """
import json
import sys
import time
import wandb
began = time.perf_counter()
wandb.Api().artifact(sys.argv[1]).download(root=sys.argv[2])
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


class Skipped(Exception):
    """Something can't be measured here, and why."""


class Failed(Exception):
    """A contender did not do what it was to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement; `more` are figures of that workload alone."""

    seconds: float
    bytes: int = 0
    count: int = 0
    more: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A mounted contender: its daemon's process, and the folder of each artifact's files."""

    pid: int
    path: Path
    folders: Mapping[str, Path]

    def memory(self) -> dict[str, float]:
        """Return the daemon's resident memory in bytes, now and at its peak."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {name: int(fields[name].split()[0]) * 1024.0 for name in ("VmRSS", "VmHWM")}


@contextmanager
def scratch(site: Site) -> Iterator[Path]:
    """Give a new folder for one turn, and remove it."""
    with tempfile.TemporaryDirectory(prefix=TURN, dir=site.home) as folder:
        yield Path(folder)


@contextmanager
def mounted_wbfs(site: Site, place: Place, state: Path) -> Iterator[Mounted]:
    """Mount wbfs; its cache and its log are below `state`."""
    mount = Mount(
        path=state / "wbfs",
        env=site.env(place, state / "home"),
        cache_dir=state / "cache",
        log_file=state / "wbfs.log",
    )
    try:
        folders = {name: mount.path / site.version(name) for name in site.names}
        yield Mounted(pid=mount.pid, path=mount.path, folders=folders)
    finally:
        mount.take_down()


@contextmanager
def mounted_rclone(
    site: Site,
    place: Place,
    state: Path,
    *,
    cache_mode: str = "full",
    options: Sequence[str] = (),
) -> Iterator[Mounted]:
    """Mount the plain files with rclone; its cache is below `state`."""
    path = state / "rclone"
    path.mkdir(exist_ok=True)
    log_file = state / "rclone.log"
    command = ["rclone", "mount", ":http:", str(path), "--http-url", f"{place.plain_url}/"]
    command += ["--config", "/dev/null", "--log-file", str(log_file), "--read-only"]
    command += ["--vfs-cache-mode", cache_mode, "--cache-dir", str(state / "cache"), *options]
    with mounted_by(command, path, log_file) as pid:
        folders = {name: path / name for name in site.names}
        yield Mounted(pid=pid, path=path, folders=folders)


@contextmanager
def mounted_daemon(site: Site, _: Place, state: Path, *, name: str) -> Iterator[Mounted]:
    """Mount an artifact's files with the daemon that serves them from memory."""
    path = state / "daemon"
    path.mkdir()
    command = [sys.executable, str(DAEMON), str(site.plain / name), str(path)]
    with mounted_by(command, path, state / "daemon.log") as pid:
        yield Mounted(pid=pid, path=path, folders={name: path})


@contextmanager
def mounted_by(command: Sequence[str], path: Path, log_file: Path) -> Iterator[int]:
    """Run a program that mounts something at `path`; give its process. Raises Failed."""
    with log_file.open("a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=without_proxy()
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


def without_proxy() -> dict[str, str]:
    """Return the environment without proxies, which have nothing to do with loopback."""
    return {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}


def read(how: str, path: Path, **arguments: object) -> Sample:
    """Let a process of its own read as `bench_reader` describes. Raises Failed."""
    return run_reader(READER, {"how": how, "path": str(path), **arguments}, LIMIT_S)


def load(how: str, path: Path, **arguments: object) -> Sample:
    """Let a process of its own read as `bench_loader` describes. Raises Failed."""
    return run_reader(LOADER, {"how": how, "path": str(path), **arguments}, LONG_LIMIT_S)


def run_reader(program: Path, what: Mapping[str, object], limit_s: float) -> Sample:
    """Run a program that reads; return what it prints. Raises Failed."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(program), json.dumps(what)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"reading {what['path']} takes longer than {limit_s:.0f} s") from error
    finally:
        # Not waited for: what hangs in a mount ends when the mount does.
        process.kill()
    if process.returncode:
        raise Failed(f"can't read {what['path']}: {errors.strip().rpartition(chr(10))[2]}")
    return as_sample(json.loads(output))


def as_sample(figures: dict[str, float]) -> Sample:
    """Return what a program printed."""
    return Sample(
        seconds=figures.pop("seconds"),
        bytes=int(figures.pop("bytes", 0)),
        count=int(figures.pop("count", 0)),
        more=figures,
    )


def fetch_with_curl(url: str, target: Path, *options: str) -> Sample:
    """Download with curl, timed by itself from its start on. Raises Failed."""
    command = ["curl", "-sS", "--fail", "--noproxy", "*", *options]
    command += ["-w", "%{time_total} %{size_download}", "-o", str(target), url]
    done = run(*command, timeout_s=LIMIT_S)
    if done.returncode:
        raise Failed(f"curl: {done.stderr.strip()}")
    seconds, size = done.stdout.split()
    return Sample(seconds=float(seconds), bytes=int(size))


def get_with_wbfs(site: Site, name: str, state: Path) -> Sample:
    """Download an artifact with `wbfs get`: the whole command is timed. Raises Failed, Skipped."""
    if run(*WBFS, "get", "--help").returncode:
        raise Skipped("this wbfs has no `get`")
    env = site.env(site.near, state / "home") | {"WBFS_CACHE_DIR": str(state / "cache")}
    command = [*WBFS, "get", site.address(name), "--root", str(state / "got")]
    began = time.perf_counter()
    done = run(*command, env=env, timeout_s=LIMIT_S)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise Failed(f"wbfs get: {done.stderr.strip()[-500:]}")
    return downloaded(site, name, state / "got", seconds, {})


def get_with_sdk(site: Site, name: str, state: Path, place: Place | None = None) -> Sample:
    """Download an artifact with the SDK; the time that importing it takes is not counted."""
    env = site.env(place or site.near, state / "home")
    began = time.perf_counter()
    command = [sys.executable, "-c", DOWNLOAD, site.address(name), str(state / "got")]
    done = run(*command, env=env, timeout_s=LONG_LIMIT_S)
    process_s = time.perf_counter() - began
    if done.returncode:
        raise Failed(f"artifact.download(): {done.stderr.strip()[-500:]}")
    seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
    return downloaded(site, name, state / "got", seconds, {"process_s": process_s})


def downloaded(
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


def kernel_settings(path: Path, wanted: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return the kernel's settings of a mount, after changing them if others are wanted.

    Raises Skipped where that is not permitted.
    """
    device = os.stat(path).st_dev
    major, minor = os.major(device), os.minor(device)
    read_ahead = Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb")
    names = ("max_background", "congestion_threshold")
    script = ["set -e"]
    # It is not mounted everywhere: root mounts it for a moment, where nobody else sees it.
    if not Path(FUSE_CONTROL, str(minor)).exists():
        script += ["mount --make-private /sys", f"mount -t fusectl none {FUSE_CONTROL}"]
    script += [f"cd {FUSE_CONTROL}/{minor}"]
    if wanted is not None:
        script += [f"echo {wanted[name]} > {name}" for name in names]
    script += [f"cat {' '.join(names)}"]
    try:
        if wanted is not None:
            read_ahead.write_text(str(wanted[read_ahead.name]))
        done = run(
            "unshare", "--mount", "--propagation", "unchanged", "sh", "-c", "\n".join(script)
        )
        if done.returncode:
            raise Skipped(f"the kernel's settings can't be changed: {done.stderr.strip()}")
        values = [read_ahead.read_text(), *done.stdout.split()]
    except OSError as error:
        raise Skipped(f"the kernel's settings can't be changed: {error.strerror}") from error
    return dict(zip((read_ahead.name, *names), map(float, values), strict=True))

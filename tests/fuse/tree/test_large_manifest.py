"""A version with hundreds of thousands of files: what its manifest costs, and whom it holds up."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Mounter
from large_manifest import (
    CONTENTS,
    LARGE_FOLDER,
    LoggedVersion,
    file_name,
    folder_name,
    log_version_of,
)
from mounts import COMMAND_TIMEOUT_S, Mount, check, run, wait_until
from processes import is_running
from stand_in import StandIn

from wbfs.fetch.apart import worker
from wbfs.fetch.apart.builder import LARGE_BYTES

FOLDERS, IN_A_FOLDER, IN_THE_LARGE_FOLDER = 100, 1000, 50_000
PROJECT = "large-manifests"
EXTRA = {
    "../outside": {"digest": "etag", "ref": "http://127.0.0.1:9/x", "size": 1},
    "negative": {"digest": "etag", "ref": "http://127.0.0.1:9/x", "size": -1},
}
NAMES = FOLDERS * (IN_A_FOLDER + 1) + IN_THE_LARGE_FOLDER + 2 + 2
"""What `find` prints: files, folders, the version directory itself, and two links."""
MIB = 1 << 20
MANIFESTS = "manifests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A large version, and a small one of the same project."""

    large: LoggedVersion
    small: LoggedVersion


@pytest.fixture(scope="module")
def logged(stand_in: StandIn) -> Logged:
    """Log a version with a large manifest, and one with a small one that it has links to."""
    small = log_version_of(stand_in, "small", folders=1, files_per_folder=3, project=PROJECT)
    digest = base64.b64encode(b"sixteen bytes...").decode()
    link = f"wandb-artifact://{base64.b64decode(small.id).hex()}/{folder_name(0)}"
    links = {
        "linked.jpeg": {"digest": digest, "ref": f"{link}/{file_name(1)}", "size": 0},
        "linked-to-nothing.jpeg": {"digest": digest, "ref": f"{link}/no-such-file", "size": 0},
    }
    large = log_version_of(
        stand_in,
        "large",
        folders=FOLDERS,
        files_per_folder=IN_A_FOLDER,
        large_folder=IN_THE_LARGE_FOLDER,
        extra=EXTRA | links,
        project=PROJECT,
    )
    assert large.manifest_size > 10 * LARGE_BYTES
    return Logged(large=large, small=small)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that the tests share which are not about reading the manifest."""
    return tmp_path_factory.mktemp("large-cache")


def builders(pid: int) -> list[int]:
    """Return the processes that a daemon has which read manifests."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                if worker.__name__ in Path(f"/proc/{child}/cmdline").read_text():
                    found.append(child)
    return found


@contextmanager
def held_builder(mount: Mount, version: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """List a version, and stop the process that reads its manifest while the context lasts."""
    listing = subprocess.Popen(
        ["ls", "-U", str(version)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        wait_until(lambda: builders(mount.pid), what="the manifest is being read")
        [builder] = builders(mount.pid)
        os.kill(builder, signal.SIGSTOP)
        yield builder, listing
    finally:
        with contextlib.suppress(ProcessLookupError, UnboundLocalError):
            os.kill(builder, signal.SIGCONT)
        try:
            listing.wait(100)
        finally:
            listing.kill()
            listing.communicate()


def cached_manifests(cache: Path) -> list[str]:
    """Return the names of all files where manifests are kept."""
    return sorted(path.name for path in (cache / MANIFESTS).rglob("*") if path.is_file())


def peak(pid: int) -> int:
    """Return the most bytes of a process that were in memory since `forget_peak`."""
    return memory(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {name} of process {pid}")


def find(folder: Path) -> int:
    return len(check("find", folder).splitlines())


def test_others_are_answered_while_it_is_read(
    mounter: Mounter, logged: Logged, cache: Path
) -> None:
    mount = mounter(f"admin/{PROJECT}", cache=cache)
    assert check("ls", mount.path / "small/v0").split() == [folder_name(0)]
    forget_peak(mount.pid)
    before = memory(mount.pid, "VmRSS")
    with held_builder(mount, mount.path / "large/v0") as (builder, listing):
        began = time.monotonic()
        assert len(check("ls", mount.path / "small/v0" / folder_name(0)).split()) == 3
        assert mount.status()["pid"] == mount.pid
        assert time.monotonic() - began < COMMAND_TIMEOUT_S
        assert builders(mount.pid) == [builder]
        assert listing.poll() is None
        # No secrets.
        command = Path(f"/proc/{builder}/cmdline").read_text().split("\0")
        assert command[1:3] == ["-m", worker.__name__]
        assert command[4] == "manifests"
        environment = Path(f"/proc/{builder}/environ").read_text()
        assert "WANDB" not in environment
        os.kill(builder, signal.SIGCONT)
        found = listing.communicate(timeout=100)[0].split()
    assert len(found) == FOLDERS + 3
    wait_until(lambda: not is_running(builder), what="its memory is given back")
    # Neither the JSON nor the entries have been in the daemon.
    assert peak(mount.pid) - before < logged.large.manifest_size / 2 - 4 * MIB
    # And nothing is left but the tables.
    assert all(name.endswith(".sqlite") for name in cached_manifests(cache))
    assert len(cached_manifests(cache)) == 2
    assert "2 entries are left out" in mount.log()
    assert "'../outside'" in mount.log()


def test_walks_cost_no_memory(mounter: Mounter, logged: Logged, cache: Path) -> None:
    mount = mounter(logged.large.source, cache=cache)
    assert find(mount.path) == NAMES
    first = memory(mount.pid, "VmRSS")
    assert find(mount.path) == NAMES
    assert memory(mount.pid, "VmRSS") - first < 6 * MIB
    assert peak(mount.pid) < 200 * MIB
    # The entries are what was logged.
    last = file_name(IN_THE_LARGE_FOLDER - 1)
    content = CONTENTS[(FOLDERS * IN_A_FOLDER + IN_THE_LARGE_FOLDER - 1) % len(CONTENTS)]
    assert (mount.path / LARGE_FOLDER / last).read_bytes() == content


def test_links_have_the_sizes_of_their_files(mounter: Mounter, logged: Logged, cache: Path) -> None:
    mount = mounter(logged.large.source, cache=cache)
    assert (mount.path / "linked.jpeg").stat().st_size == len(CONTENTS[1])


def test_a_second_mount_opens_its_table_at_once(
    mounter: Mounter, logged: Logged, cache: Path, stand_in: StandIn
) -> None:
    # Two daemons at once on the same table.
    mounter(logged.large.source, cache=cache)
    stand_in.clear_requests()
    mount = mounter(logged.large.source, cache=cache)
    assert len(os.listdir(mount.path)) == FOLDERS + 3
    assert (mount.path / folder_name(0) / file_name(7)).stat().st_size == len(CONTENTS[7])
    assert stand_in.requests(operation="FetchArtifactManifest") == []
    assert builders(mount.pid) == []


def test_a_daemon_that_is_killed_leaves_no_process(
    mounter: Mounter, logged: Logged, tmp_path: Path
) -> None:
    mount = mounter(f"admin/{PROJECT}")
    with held_builder(mount, mount.path / "large/v0") as (builder, listing):
        # It is not to be through with it before this test has its turn, on a busy machine.
        for thread in os.listdir(f"/proc/{builder}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), 15)
        # The system ends what is stopped when its parent goes; this is to end by itself.
        os.kill(builder, signal.SIGCONT)
        # Until it is told which, nobody else knows of the table that was begun.
        maps = Path(f"/proc/{builder}/maps")
        wait_until(lambda: "scratch." in maps.read_text(), what="the process reads the manifest")
        mount.kill()
        mount.take_down()
    assert listing.returncode != 0
    wait_until(lambda: not is_running(builder), what="the process ends with its daemon")
    assert cached_manifests(tmp_path / "cache") == []
    # What a machine leaves that loses its power is removed as well.
    [folder] = (tmp_path / "cache" / MANIFESTS).iterdir()
    leftover = folder / f"{logged.large.id.replace('=', '%3D')}.sqlite.x.tmp"
    leftover.write_bytes(b"SQLite format 3")
    os.utime(leftover, ns=(1, 1))
    mount = mounter(logged.large.source)
    assert len(os.listdir(mount.path)) == FOLDERS + 3
    assert not leftover.exists()


def test_the_end_of_the_mount_is_the_processs_too(
    mounter: Mounter, logged: Logged, tmp_path: Path
) -> None:
    mount = mounter(f"admin/{PROJECT}")
    with held_builder(mount, mount.path / "large/v0") as (builder, _):
        os.kill(mount.pid, signal.SIGTERM)
        wait_until(lambda: not mount.is_alive(), what="the daemon ends")
        # Although it can do nothing itself.
        assert not is_running(builder)
    assert cached_manifests(tmp_path / "cache") == []


def test_a_slow_manifest_times_out_and_goes_on(
    mounter: Mounter, logged: Logged, stand_in: StandIn, tmp_path: Path
) -> None:
    mount = mounter(f"admin/{PROJECT}", options=("--timeout", "10"))
    assert os.listdir(mount.path / "large")
    stand_in.clear_requests()
    rate = logged.large.manifest_size / 20
    with stand_in.faults(port="files", match="manifests", bandwidth_bytes_per_s=rate):
        listing = run("ls", mount.path / "large/v0")
        assert "timed out" in listing.stderr
        deadline = time.monotonic() + 200
        while listing.returncode != 0:
            assert time.monotonic() < deadline, listing.stderr
            listing = run("ls", mount.path / "large/v0")
    assert len(listing.stdout.split()) == FOLDERS + 3
    # None has begun again at the start.
    asked = [one for one in stand_in.requests(port="files") if "manifests" in one.path]
    starts = [int(one.range.removeprefix("bytes=").rstrip("-") or 0) for one in asked]
    # The last one is that of the artifact that links lead to.
    assert 0 in (starts[-1], starts[0])
    assert starts[:-1] == sorted(set(starts[:-1]))
    assert cached_manifests(tmp_path / "cache")


def test_what_is_no_manifest_is_said_alike_of_small_and_large(
    mounter: Mounter, logged: Logged, stand_in: StandIn, tmp_path: Path
) -> None:
    mount = mounter(f"admin/{PROJECT}")
    said = []
    with stand_in.faults(port="files", match="manifests", wrong_bytes=True):
        for version in (logged.small, logged.large):
            name = version.source.rpartition("/")[2].replace(":", "/")
            listing = run("ls", mount.path / name)
            assert "Input/output error" in listing.stderr
            said.append(mount.errors()[-1]["cause"].replace(version.source, "it"))
    assert "the manifest of it is none: it has no { at byte 0" in said[0]
    assert said[0] == said[1]
    assert cached_manifests(tmp_path / "cache") == []
    assert len(os.listdir(mount.path / "large/v0")) == FOLDERS + 3


@pytest.mark.parametrize("size", ["8m", "40m"])
def test_a_version_is_listed_whatever_room_there_is(
    mounter: Mounter, logged: Logged, small_disk: Callable[[str], Path], size: str
) -> None:
    # The smaller one has no room for the manifest, the larger one none for its table beside it.
    assert logged.large.manifest_size < 30 * MIB
    cache = small_disk(size) / "cache"
    mount = mounter(f"admin/{PROJECT}", cache=cache)
    assert len(os.listdir(mount.path / "large/v0")) == FOLDERS + 3
    assert cached_manifests(cache) == []
    assert os.listdir(mount.path / "small/v0") == [folder_name(0)]

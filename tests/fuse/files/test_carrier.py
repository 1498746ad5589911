"""The process that fetches small files: what it may know, and how it ends."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from conftest import Mounter
from fetching import resources
from mounts import WBFS, Mount, check, run, wait_until
from processes import is_running
from stand_in import StandIn

from wbfs.devserver.objects.signing import SIGNATURE
from wbfs.fetch.apart import small_files, worker
from wbfs.fetch.apart.process import Process
from wbfs.fetch.small.orders import Order
from wbfs.fetch.work.background import Background
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, Reference

COUNT = 240
FIRST = 60
"""Files read in order before the others get slow: enough that others are fetched ahead."""
LOG = f"""
import pathlib
import random
import sys
import wandb

for number in range({COUNT}):
    path = pathlib.Path(sys.argv[1], f"{{number:04}}.bin")
    path.write_bytes(random.Random(number).randbytes(2000))
with wandb.init(project="carrier") as run:
    artifact = wandb.Artifact("files", type="dataset")
    artifact.add_dir(sys.argv[1])
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """The version's path below a mount, and its files' digests by name."""

    path: Path
    digests: dict[str, str]


@pytest.fixture(scope="module")
def logged(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """Log a folder of small files with the real SDK."""
    folder = tmp_path_factory.mktemp("carrier")
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("carrier-home"), folder)
    digests = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())
    }
    return Logged(path=Path(entity, "carrier/files/v0"), digests=digests)


def read(mount: Mount, logged: Logged, names: list[str]) -> None:
    """Read those files one after another, and check all bytes."""
    folder = mount.path / logged.path
    lines = check("md5sum", *(folder / name for name in names)).splitlines()
    assert [line[:32] for line in lines] == [logged.digests[name] for name in names]


def carriers(pid: int) -> list[int]:
    """Return a daemon's processes that fetch small files."""
    found = run("ps", "--ppid", str(pid), "-o", "pid=,stat=,args=").stdout.splitlines()
    rows = [line.split(maxsplit=2) for line in found if worker.__name__ in line]
    return [int(row[0]) for row in rows if not row[1].startswith("Z")]


def end(pids: list[int], number: signal.Signals) -> None:
    """Send all of them a signal."""
    for pid in pids:
        os.kill(pid, number)


@contextmanager
def busy(mount: Mount, logged: Logged, server: StandIn) -> Iterator[list[int]]:
    """Give the processes while they wait for a slow server, for files ahead of those read."""
    names = list(logged.digests)
    read(mount, logged, names[:FIRST])

    def is_under_way() -> bool:
        return mount.status()["fetched"]["in_progress"] > 0

    mount.wait_until_idle()
    with server.faults(port="files", stall=True):
        reader = FIRST
        # What is there is read on, until others are asked for.
        blobs = mount.cache_dir / "blobs"
        while not is_under_way():
            name = names[reader]
            assert (blobs / logged.digests[name][:2] / f"md5-{logged.digests[name]}").exists()
            read(mount, logged, [name])
            reader += 1
        yield carriers(mount.pid)


def test_it_is_told_no_key_and_shows_no_signature(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    mount = mounter()
    with busy(mount, logged, stand_in) as pids:
        assert pids
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids]
        # Ctrl-C at the terminal is not for them.
        assert [os.getpgid(pid) for pid in pids] == pids
    assert all(worker.__name__.encode() in command for command in commands)
    assert all(b"HOME=" in environment for environment in environments)
    for shown in commands + environments:
        assert stand_in.api_key.encode() not in shown
        assert b"WANDB" not in shown
        assert SIGNATURE.encode() not in shown
    assert stand_in.api_key not in mount.log()
    assert SIGNATURE not in mount.log()


def test_it_is_killed(mounter: Mounter, logged: Logged, stand_in: StandIn) -> None:
    mount = mounter()
    with busy(mount, logged, stand_in) as pids:
        assert pids
        end(pids, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, pids)), what="those killed are gone")
        text = "the process for small files was ended by signal 9"
        wait_until(lambda: text in mount.log(), what="the log says so")
    read(mount, logged, list(logged.digests))
    warnings = [line for line in mount.log().splitlines() if "WARNING" in line and text in line]
    assert len(warnings) == len(pids)
    assert mount.errors() == []


def test_it_hangs(mounter: Mounter, logged: Logged, stand_in: StandIn) -> None:
    mount = mounter(options=["--timeout", "45"])
    with busy(mount, logged, stand_in) as pids:
        assert pids
        end(pids, signal.SIGSTOP)
        assert mount.status()["fetched"]["in_progress"] > 0
    # Those too that it has.
    read(mount, logged, list(logged.digests))
    wait_until(lambda: not any(map(is_running, pids)), what="those that hang are ended")
    said = "the process for small files was silent for"
    wait_until(lambda: said in mount.log(), what="the daemon says so, once it has seen its end")
    assert mount.errors() == []
    assert mount.status()["defects"] == 0


@pytest.mark.parametrize("descriptors", [64, 100, 160])
def test_there_are_no_descriptors_left(mounter: Mounter, logged: Logged, descriptors: int) -> None:
    limited = ("prlimit", f"--nofile={descriptors}:{descriptors}", *WBFS)
    mount = mounter(program=limited)
    folder = mount.path / logged.path
    failed = 0
    with ExitStack() as held:
        for name, digest in logged.digests.items():
            try:
                file = held.enter_context((folder / name).open("rb"))
                content = file.read()
            except OSError:
                failed += 1
            else:
                assert hashlib.md5(content).hexdigest() == digest
    # More than it can hold open; what could be read was right.
    assert 0 < failed < COUNT
    read(mount, logged, list(logged.digests))
    assert mount.status()["defects"] == 0


def test_it_ends_with_its_mount(mounter: Mounter, logged: Logged, stand_in: StandIn) -> None:
    mount = mounter()
    with busy(mount, logged, stand_in) as pids:
        assert pids
        mount.umount()
        wait_until(lambda: not any(map(is_running, pids)), what="the processes are gone")


def test_it_ends_with_a_daemon_that_is_killed(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    mount = mounter()
    with busy(mount, logged, stand_in) as pids:
        assert pids
        mount.kill()
        wait_until(lambda: not any(map(is_running, pids)), what="the processes are gone")
    blobs = [path for path in (mount.cache_dir / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) >= FIRST
    for path in blobs:
        assert path.name == f"md5-{hashlib.md5(path.read_bytes()).hexdigest()}"
    partial = mount.cache_dir / "partial"
    assert {path.name.partition(".")[0][4:] for path in partial.iterdir()} <= set(
        logged.digests.values()
    )
    again = mounter(cache=mount.cache_dir)
    wait_until(lambda: not list(partial.iterdir()), what="what was abandoned is removed")
    read(again, logged, list(logged.digests))


async def test_it_is_ended_when_idle(nursery: trio.Nursery, tmp_path: Path) -> None:
    content = b"some bytes"
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "cache").mkdir()
    used = resources(Background(nursery), tmp_path / "cache", None, timeout_s=100)
    uri = (tmp_path / "file").as_uri()
    digest = Digest(Algorithm.MD5, hashlib.md5(content).hexdigest())
    reference = Reference(uri=uri, token=uri)
    entry = Entry(path="file", size=len(content), digest=digest, reference=reference)
    ended: list[tuple[None, Exception | None]] = []
    program = replace(small_files.program(used.setup, processes=1), idle_s=0.2)
    process = Process(used.background, program)
    # The second order finds it ended.
    for number in (1, 2):
        order = Order(path="file", entry=entry, url="", by_gateway=True, is_unread=False)
        process.order(order, lambda _, error: ended.append((_, error)), timeout_s=100)
        with trio.fail_after(100):
            while len(ended) < number:
                await trio.sleep(0.02)
            while carriers(os.getpid()):
                await trio.sleep(0.05)
    assert [error for _, error in ended] == [None] * 2
    assert used.blobs.path(entry.blob).read_bytes() == content

"""Prefetch of a data loader's next files: what it fetches, what it leaves, whom it never holds up.

What was fetched is the server's word: its log has each object's requests.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounter
from disk import taken
from mounts import Mount, check, run, wait_until
from stand_in import StandIn

from wbfs.devserver.request_log import LoggedRequest
from wbfs.fetch.ahead.loaders import FAILURES_IN_A_ROW, PAUSE_S
from wbfs.fetch.ahead.queue import FILES_AT_ONCE
from wbfs.fetch.apart import worker
from wbfs.fetch.apart.small_files import THREADS
from wbfs.remote.http.transport import PIECE_BYTES

WASTE = 0.1
TRAIN, VAL, MIXED = 1_000, 150, 200
BLOCK_BYTES = 4096
"""What any of the small files takes on the disk at most."""
BATCH_FILES = 64
ONE_URL_BYTES = 1_000
"""What the answer to a question for the URL of one file has at most."""
SEEN = 100
"""Files of the training folder after which its random order is known."""
LOG = f"""
import json
import pathlib
import random
import sys
import wandb

def write(name, low, high):
    path = pathlib.Path(sys.argv[1], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = random.Random(name)
    line = f"this is {{name.partition('/')[2]}}\\n".encode()
    path.write_bytes(line + numbers.randbytes(numbers.randrange(low, high) - len(line)))

for number in range({TRAIN}):
    write(f"small/train/{{number:04}}.bin", 1_000, 4_000)
for number in range({VAL}):
    write(f"small/val/{{number:04}}.bin", 1_000, 4_000)
for number in range({MIXED}):
    write(f"mixed/{{number:04}}.bin", 1_000, 200_000)
with wandb.init(project="neighbours") as run:
    for name in ("small", "mixed"):
        artifact = wandb.Artifact(name, type="dataset")
        artifact.add_dir(str(pathlib.Path(sys.argv[1], name)))
        run.log_artifact(artifact).wait()
    print(run.entity)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of one version: its path below the mount, theirs in it, and what they are."""

    path: Path
    names: tuple[str, ...]
    sizes: dict[str, int]
    digests: dict[str, str]
    keys: dict[str, str]

    def below(self, folder: str) -> list[str]:
        return [name for name in self.names if name.startswith(folder)]

    def bytes_of(self, names: Iterable[str]) -> int:
        return sum(self.sizes[name] for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What was logged: a version with folders of small files, and one with larger ones too."""

    small: Files
    mixed: Files


@pytest.fixture(scope="module")
def logged(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """Log both versions with the real SDK."""
    folder = tmp_path_factory.mktemp("neighbours")
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("neighbours-home"), folder)
    project = Path(entity, "neighbours")
    objects = stand_in.data_dir / "objects"
    keys = {
        hashlib.md5(path.read_bytes()).hexdigest(): str(path.relative_to(objects))
        for path in (objects / "wandb_artifacts").rglob("*")
        if path.is_file()
    }

    def files(name: str) -> Files:
        root = folder / name
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        names = tuple(str(path.relative_to(root)) for path in paths)
        digests = {
            found: hashlib.md5(path.read_bytes()).hexdigest()
            for found, path in zip(names, paths, strict=True)
        }
        return Files(
            path=project / name / "v0",
            names=names,
            sizes={found: path.stat().st_size for found, path in zip(names, paths, strict=True)},
            digests=digests,
            keys={found: keys[digest] for found, digest in digests.items()},
        )

    return Logged(small=files("small"), mixed=files("mixed"))


class Watch:
    """What the server gave out of one version's files since this was made."""

    def __init__(self, server: StandIn, files: Files) -> None:
        self._server = server
        self._files = files
        self._names = {key: name for name, key in files.keys.items()}
        server.clear_requests()

    def gets(self) -> list[tuple[str, LoggedRequest]]:
        found = self._server.requests(port="files", method="GET")
        return [(self._names[get.key], get) for get in found if get.key in self._names]

    def times(self) -> Counter[str]:
        """How many times each file was asked for."""
        return Counter(name for name, _ in self.gets())

    def bytes_past(self, read: Iterable[str]) -> int:
        """How many bytes were sent of files that aren't among those."""
        known = set(read)
        return sum(get.bytes_sent for name, get in self.gets() if name not in known)

    def url_questions(self) -> int:
        """How many questions for signed URLs there were."""
        return len(self._server.requests(operation="ArtifactMembershipFiles"))


def shuffled(names: Sequence[str], seed: int = 1) -> list[str]:
    return random.Random(seed).sample(names, len(names))


def start_reading(mount: Mount, files: Files, names: Sequence[str]) -> subprocess.Popen[str]:
    """Start a program that reads those files one after another."""
    return subprocess.Popen(
        ["md5sum", *names],
        cwd=mount.path / files.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read(
    mount: Mount,
    files: Files,
    names: Sequence[str],
    *,
    processes: int = 1,
    timeout_s: float = 100.0,
) -> None:
    """Have programs read those files between them, each one after another, and check all bytes."""
    readers = [start_reading(mount, files, names[number::processes]) for number in range(processes)]
    lines: list[str] = []
    try:
        for reader in readers:
            output, errors = reader.communicate(timeout=300)
            assert reader.returncode == 0, errors
            lines += output.splitlines()
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()
    assert {line[34:]: line[:32] for line in lines} == {name: files.digests[name] for name in names}


def match(files: Files, names: Iterable[str]) -> str:
    """Return what the server's faults pick those files' objects by."""
    return "^/(" + "|".join(sorted(re.escape(files.keys[name]) for name in names)) + ")$"


def cached(mount: Mount, files: Files) -> set[str]:
    """Return which files the cache has."""
    found = {path.name for path in (mount.cache_dir / "blobs").rglob("*") if path.is_file()}
    return {name for name, digest in files.digests.items() if f"md5-{digest}" in found}


Program = Callable[[Path, list[str]], int]
"""Runs in a folder with its files; returns how many of the first ones it looked into."""


def look_into_one(command: str) -> Program:
    def program(folder: Path, names: list[str]) -> int:
        check("sh", "-c", f"cd '{folder}' && {command} {names[0]}")
        return 1

    return program


def look_into_first(count: int) -> Program:
    def program(folder: Path, names: list[str]) -> int:
        for name in names[:count]:
            (folder / name).read_bytes()
        return count

    return program


def grep_until(count: int) -> Program:
    def program(folder: Path, names: list[str]) -> int:
        # It ends at the first match, with the rest of the files unopened.
        wanted = f"this is {names[count - 1]}"
        paths = [folder / name for name in names]
        check("grep", "--text", "--quiet", "--fixed-strings", "--line-regexp", wanted, *paths)
        return count

    return program


@pytest.mark.promises("4.5")
@pytest.mark.parametrize(
    "program",
    [look_into_one("head -c 100"), look_into_one("file"), look_into_first(2)],
    ids=["head", "file", "two files"],
)
def test_a_program_that_opens_a_file_or_two_causes_nothing_else(
    mounter: Mounter, logged: Logged, stand_in: StandIn, program: Program
) -> None:
    mount = mounter()
    watch = Watch(stand_in, logged.small)
    names = logged.small.below("train/")
    count = program(mount.path / logged.small.path, names)
    status = mount.wait_until_idle()
    assert watch.times() == Counter(names[:count])
    assert status["fetched"]["prefetched_files"] == 0
    assert status["prefetch"] == []


def test_the_first_batch_of_listed_folders_costs_few_questions(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    small = logged.small
    mount = mounter()
    watch = Watch(stand_in, small)
    alone, *names = shuffled(small.names)[:BATCH_FILES]
    check("head", "-c", "100", mount.path / small.path / alone)
    [question] = stand_in.requests(operation="ArtifactMembershipFiles")
    assert question.bytes_sent < ONE_URL_BYTES
    # A walk asks for none.
    assert len(check("find", mount.path / small.path, "-type", "f").splitlines()) == TRAIN + VAL
    assert watch.url_questions() == 1
    # Slow, so that URLs that nobody waits for have come before few files are read.
    with stand_in.faults(port="files", delay_s=0.15):
        read(mount, small, names)
    assert watch.url_questions() < BATCH_FILES / 4


@pytest.mark.promises("4.6")
@pytest.mark.parametrize("version", ["small", "mixed"])
@pytest.mark.parametrize(
    "program",
    [look_into_first(20), grep_until(5), grep_until(30), grep_until(150)],
    ids=["the first 20", "grep to 5", "grep to 30", "grep to 150"],
)
def test_a_program_that_stops_early_wastes_less_than_a_tenth(
    mounter: Mounter, logged: Logged, stand_in: StandIn, version: str, program: Program
) -> None:
    files: Files = getattr(logged, version)
    mount = mounter()
    watch = Watch(stand_in, files)
    names = files.below("train/") if version == "small" else list(files.names)
    count = program(mount.path / files.path, names)
    status = mount.wait_until_idle()
    times = watch.times()
    assert set(times) >= set(names[:count])
    assert max(times.values()) == 1
    assert watch.bytes_past(names[:count]) < WASTE * files.bytes_of(names[:count])
    fetched = status["fetched"]
    unread = [name for name in times if name not in names[:count]]
    assert fetched["prefetched_files"] - fetched["used_files"] == len(unread)
    assert sum(row["unread_bytes"] for row in status["prefetch"]) == files.bytes_of(unread)


def test_a_reader_in_order_finds_most_files_fetched(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    mount = mounter()
    watch = Watch(stand_in, logged.small)
    names = logged.small.below("train/")
    with stand_in.faults(port="files", delay_s=0.02):
        read(mount, logged.small, names)
    status = mount.wait_until_idle()
    fetched = status["fetched"]
    assert fetched["prefetched_files"] > TRAIN / 2
    # Others are what follows in the next folder, where the reader didn't go.
    times = watch.times()
    assert {name: times[name] for name in names} == dict.fromkeys(names, 1)
    past = watch.bytes_past(names)
    assert past < WASTE * logged.small.bytes_of(names)
    assert fetched["prefetched_bytes"] - fetched["used_bytes"] == past
    assert fetched["fetched_files"] == len(times)
    assert watch.url_questions() < TRAIN / 20


def test_four_shuffled_processes_are_recognised(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    mount = mounter()
    watch = Watch(stand_in, logged.small)
    names = shuffled(logged.small.below("train/"))
    first, rest = names[: TRAIN // 2], names[TRAIN // 2 :]
    with stand_in.faults(port="files", delay_s=0.02):
        read(mount, logged.small, first, processes=4)
    status = mount.wait_until_idle()
    # Half of an epoch is enough to have the whole folder, and nothing but the folder.
    assert watch.times() == Counter(names)
    [row] = status["prefetch"]
    assert row["version"] == str(logged.small.path).replace("/v0", ":v0")
    assert row["folder"] == "train/"
    assert "in random order" in row["why"]
    assert row["unread_bytes"] <= row["allowed_bytes"]
    unread = logged.small.bytes_of(rest)
    fetched = status["fetched"]
    assert row["unread_bytes"] == unread
    assert fetched["prefetched_bytes"] - fetched["used_bytes"] == unread

    read(mount, logged.small, rest, processes=4)
    status = mount.wait_until_idle()
    assert status["prefetch"] == []
    fetched = status["fetched"]
    assert fetched["used_files"] == fetched["prefetched_files"] >= TRAIN / 2
    assert fetched["wasted_bytes"] == fetched["failed_prefetches"] == 0
    assert watch.times() == Counter(names)
    assert watch.url_questions() < TRAIN / 20

    # Another epoch, with no page of the first one in memory.
    mount.umount()
    again = mounter()
    stand_in.clear_requests()
    read(again, logged.small, shuffled(names, seed=2), processes=4)
    again.wait_until_idle()
    assert watch.times() == Counter()
    assert watch.url_questions() == 0


def test_a_slow_api_makes_nothing_be_fetched_twice(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    mount = mounter()
    watch = Watch(stand_in, logged.small)
    names = logged.small.below("train/")[:250]
    with stand_in.faults(port="api", delay_s=0.3):
        read(mount, logged.small, names)
    mount.wait_until_idle()
    assert max(watch.times().values()) == 1


@contextlib.contextmanager
def prefetch_under_way(
    mount: Mount, files: Files, server: StandIn, names: Sequence[str], **fault: Any
) -> Iterator[Watch]:
    """Have a loader read the first of `names`; the others come, once prefetched, with that fault.

    It begins once as many are on their way as may be.
    """
    watch = Watch(server, files)
    to_come = set(names[SEEN:])
    with server.faults(port="files", match=match(files, to_come), **fault):
        read(mount, files, names[:SEEN], processes=4)

        def is_under_way() -> bool:
            pending = [name for name, get in watch.gets() if name in to_come and not get.status]
            return len(pending) == THREADS

        wait_until(is_under_way, what="as many files are prefetched as may be")
        yield watch


def test_stalled_prefetch_holds_up_nobody(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    small, mixed = logged.small, logged.mixed
    mount = mounter(options=["--timeout", "300"])
    names = shuffled(small.below("train/"))
    read(mount, mixed, mixed.names[:1])
    with prefetch_under_way(mount, small, stand_in, names, stall=True) as watch:
        read(mount, small, small.below("val/")[:5])
        read(mount, mixed, mixed.names[50:55])
        assert len(os.listdir(mount.path / small.path / "train")) == TRAIN
        # They wait still, for longer than a test may take.
        assert sum(not get.status for _, get in watch.gets()) == THREADS
        assert mount.errors() == []


@pytest.mark.promises("4.7")
def test_demand_is_not_queued_behind_prefetch(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    small = logged.small
    mount = mounter()
    names = shuffled(small.below("train/"))
    with prefetch_under_way(mount, small, stand_in, names, delay_s=1.0) as watch:
        # More is to come than can be on the way at once.
        [row] = mount.status()["prefetch"]
        asked = watch.times()
        pending = [name for name, get in watch.gets() if not get.status]
        assert row["on_their_way_bytes"] > small.bytes_of(pending)
        # What is on its way, what nobody has begun to fetch, and a file of another folder.
        waiting = [name for name in names[SEEN:] if name not in asked][-24:]
        wanted = [pending[-1], *waiting, small.below("val/")[7]]
        read(mount, small, wanted, processes=len(wanted))
        # The last of a queue would have to wait until all others are asked for.
        assert len(set(names) - set(watch.times())) > THREADS
    mount.wait_until_idle()
    assert max(watch.times().values()) == 1


def test_prefetch_goes_on_when_its_process_is_killed(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    small = logged.small
    mount = mounter(options=["--timeout", "300"])
    names = shuffled(small.below("train/"))
    with prefetch_under_way(mount, small, stand_in, names, stall=True) as watch:
        asked = sorted(set(watch.times()) - set(names[:SEEN]))
        # One that waits for what is on its way, and for the process's sake must not for ever.
        with stand_in.faults():
            reader = start_reading(mount, small, asked[:1])
            try:
                for pid in processes_of_prefetch(mount):
                    os.kill(pid, signal.SIGKILL)
                output, errors = reader.communicate(timeout=100)
            finally:
                reader.kill()
                reader.wait(50)
            assert output.startswith(small.digests[asked[0]]), errors
            read(mount, small, asked)
            read(mount, small, names, processes=4)
    mount.wait_until_idle()
    assert mount.errors() == []


def processes_of_prefetch(mount: Mount) -> list[int]:
    """Return the processes of this mount's that fetch small files."""
    found = check("ps", "--ppid", str(mount.pid), "-o", "pid=,args=").splitlines()
    pids = [int(line.split()[0]) for line in found if worker.__name__ in line]
    assert pids
    return pids


class CacheSize:
    """The most bytes that the cache's blobs take on the disk while this lasts."""

    def __init__(self, mount: Mount) -> None:
        self._folder = mount.cache_dir / "blobs"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = 0

    def __enter__(self) -> CacheSize:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, taken(self._folder))


def test_prefetch_keeps_within_the_cache(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    small, mixed = logged.small, logged.mixed
    limit = 2_000_000
    mount = mounter(options=["--cache-size", str(limit)])
    wait_until(lambda: mount.status()["cache"]["used_bytes"] is not None, what="it is counted")
    watch = Watch(stand_in, small)
    names = shuffled(small.below("train/"))
    first = names[: 2 * SEEN]
    with CacheSize(mount) as size:
        read(mount, small, first, processes=4)
        status = mount.wait_until_idle()
        prefetched = set(watch.times()) - set(first)
        assert len(prefetched) > SEEN
        assert status["fetched"]["wasted_bytes"] == 0
        assert cached(mount, small) == set(watch.times())
        # Another program's files push out what nobody has read, and nothing else.
        to_come = (name for name in mixed.names if mixed.sizes[name] < 40_000)
        others: list[str] = []
        while cached(mount, small) >= prefetched:
            others.append(next(to_come))
            read(mount, mixed, others[-1:])
        wait_until(
            lambda: mount.status()["fetched"]["wasted_bytes"] > 0, what="what was wasted is told"
        )
        assert cached(mount, small) >= set(first)
        assert cached(mount, mixed) >= set(others)
        gone = prefetched - cached(mount, small)
        wasted = mount.status()["fetched"]["wasted_bytes"]
        # They are counted by what they took on the disk.
        assert small.bytes_of(gone) <= wasted <= len(gone) * BLOCK_BYTES
        # All of it, though the folder is larger than the cache.
        read(mount, small, names, processes=4)
        mount.wait_until_idle()
    assert size.most <= limit + PIECE_BYTES
    assert mount.errors() == []


def test_without_a_cache_nothing_is_prefetched(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    mount = mounter(options=["--cache-size", "0"])
    watch = Watch(stand_in, logged.small)
    names = logged.small.below("train/")
    first, second = names[:200], shuffled(names[200:])[:100]
    read(mount, logged.small, first)
    read(mount, logged.small, second, processes=4)
    status = mount.wait_until_idle()
    assert status["fetched"]["prefetched_files"] == 0
    assert set(watch.times()) == {*first, *second}


def test_nothing_outside_of_the_path_prefix_is_prefetched(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    source = str(logged.small.path).replace("/v0", ":v0")
    mount = mounter(source, options=["--path-prefix", "train/05"])
    files = replace(logged.small, path=Path())
    watch = Watch(stand_in, files)
    shown = files.below("train/05")
    assert os.listdir(mount.path / "train") == [Path(name).name for name in shown]
    read(mount, files, shown)
    status = mount.wait_until_idle()
    assert status["fetched"]["prefetched_files"] > 0
    assert watch.times() == Counter(shown)


def test_nor_by_a_loader_in_random_order(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    source = str(logged.small.path).replace("/v0", ":v0")
    mount = mounter(source, options=["--path-prefix", "train/0"])
    files = replace(logged.small, path=Path())
    watch = Watch(stand_in, files)
    # Far from each other, so that it is known early.
    read(mount, files, shuffled(files.below("train/0"))[: 2 * SEEN], processes=4)
    status = mount.wait_until_idle()
    assert status["fetched"]["prefetched_files"] > SEEN
    assert not [name for name in watch.times() if not name.startswith("train/0")]


@pytest.mark.parametrize("status_code", [404, 500])
def test_a_failing_server_is_not_asked_for_ever(
    mounter: Mounter, logged: Logged, stand_in: StandIn, status_code: int
) -> None:
    small = logged.small
    timeout_s = 10
    mount = mounter(options=["--timeout", str(timeout_s)])
    watch = Watch(stand_in, small)
    names = shuffled(small.below("train/"))
    good, bad = names[: 3 * SEEN], names[3 * SEEN :]
    began = time.monotonic()
    with stand_in.faults(
        port="files", match=match(small, bad), error_share=1.0, error_status=status_code
    ):
        read(mount, small, good[:SEEN], processes=4)
        status = mount.wait_until_idle(timeout_s=200)
        assert status["fetched"]["failed_prefetches"] >= FAILURES_IN_A_ROW
        read(mount, small, good[SEEN:], processes=4)
        status = mount.wait_until_idle(timeout_s=200)
        pauses = 1 + int((time.monotonic() - began) / PAUSE_S)
    times = watch.times()
    asked = {name: count for name, count in times.items() if name not in set(good)}
    # A few more than are on their way: as each fails another one follows, until so many have.
    assert 0 < len(asked) <= pauses * (2 * FILES_AT_ONCE + FAILURES_IN_A_ROW)
    # Each as often as there is time for, in a process of its own and here.
    assert max(asked.values()) <= 6 * timeout_s
    assert status["fetched"]["failed_prefetches"] == len(asked)
    assert {times[name] for name in good} == {1}
    assert mount.errors() == []
    # They are there again.
    read(mount, small, bad[:20])


def test_objects_that_are_gone_are_their_readers_errors_only(
    mounter: Mounter, logged: Logged, stand_in: StandIn
) -> None:
    small = logged.small
    mount = mounter()
    names = small.below("train/")[:300]
    gone = names[50::60]
    with stand_in.faults(port="files", match=match(small, gone), error_share=1.0, error_status=404):
        reader = start_reading(mount, small, names)
        output, errors = reader.communicate(timeout=100)
        mount.wait_until_idle()
    assert reader.returncode == 1
    assert {line.split(":")[1].strip() for line in errors.splitlines()} == set(gone)
    assert {line[34:]: line[:32] for line in output.splitlines()} == {
        name: small.digests[name] for name in names if name not in gone
    }
    assert len(mount.errors()) <= 2 * len(gone)


def test_wrong_bytes_are_never_served(mounter: Mounter, logged: Logged, stand_in: StandIn) -> None:
    small = logged.small
    mount = mounter()
    watch = Watch(stand_in, small)
    names = shuffled(small.below("train/"))
    wrong = names[SEEN:]
    with stand_in.faults(port="files", match=match(small, wrong), wrong_bytes=True):
        read(mount, small, names[:SEEN], processes=4)
        status = mount.wait_until_idle()
        assert status["fetched"]["failed_prefetches"] >= FAILURES_IN_A_ROW
        prefetched = sorted(set(watch.times()) & set(wrong))
        assert cached(mount, small) == set(names[:SEEN])
        done = run("cat", mount.path / small.path / prefetched[0])
        assert (done.returncode, done.stdout) == (1, "")
        assert "Input/output error" in done.stderr
    read(mount, small, prefetched)

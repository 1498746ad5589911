"""Large files got to a directory: copied while they come, named once they are checked."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from fetching import new_manifests
from tables import add_table
from test_large import CONTENT, ENTRY, MIB, VERSION, WAIT_S, GatedSources, Setting

from wbfs.fetch.bulk.delivery import ToTarget
from wbfs.fetch.bulk.following import Following
from wbfs.fetch.bulk.pipeline import Pipeline, Selection
from wbfs.fetch.bulk.tally import Tally
from wbfs.fetch.bulk.target import Target, TargetError, TargetFolder, TargetFull
from wbfs.fetch.large.hash_ahead import HashAhead
from wbfs.fetch.wanted import Wanted
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import StoreError
from wbfs.remote.http.transport import Deadline
from wbfs.store.bounds.room import Room
from wbfs.store.content.large_blob import LargeBlob
from wbfs.store.content.sealed import SealedBlob
from wbfs.store.known.manifest_table import ManifestTable

GATE = 16 * MIB
UNHASHED = 4 * MIB
"""So much is not worth the digest's while, and is taken as the file is sealed."""


class Sources(GatedSources):
    """Has the manifest too."""

    def __init__(self, folder: Path, entries: Sequence[Entry]) -> None:
        super().__init__()
        self._manifests = new_manifests(folder, "server")
        add_table(self._manifests, VERSION.id, entries).close()

    def manifest(self, version: Version, *, deadline: Deadline) -> ManifestTable:
        table = self._manifests.open(version.id)
        assert table is not None
        return table


class Getting:
    """Gets a large file, `a` and `b`, to `root`; `open` lets come what is past `GATE`."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        entries = [dataclasses.replace(ENTRY, path=name) for name in ("a", "b")]
        self.sources = Sources(folder / "cache", entries)
        self.open = self.sources.opened.set
        self.root = folder / "root"
        setting = Setting(nursery, folder / "cache", self.sources)
        self.resources, self._fetcher = setting.resources, setting.fetcher
        self.scope = trio.CancelScope()
        self.tally: Tally | None = None
        self.is_over = trio.Event()

    async def run(self, *paths: str) -> None:
        """Get what is at the paths."""
        delivery = ToTarget(Target(self.root, umask=0o022), self.resources)
        pipeline = Pipeline(
            fetcher=self._fetcher,
            resources=self.resources,
            selections=[Selection(VERSION, path) for path in paths],
            delivery=delivery,
        )
        self.tally = pipeline.tally
        with self.scope:
            await pipeline.run()
        self.is_over.set()

    async def is_right(self, *paths: str) -> bool:
        """Wait until it is over, and return whether just those are there, with all bytes."""
        await until(self.is_over.is_set)
        assert self.tally is not None
        assert (self.tally.got, self.tally.errors) == (len(paths), [])
        assert self.unnamed() == []
        return self.named() == dict.fromkeys(paths, CONTENT)

    def copies(self, stop: int, content: bytes = CONTENT) -> int:
        """Return how many files without a name have the content's first bytes, about to `stop`."""
        found = self.unnamed()
        return sum(len(one) >= stop - UNHASHED and content.startswith(one) for one in found)

    def unnamed(self) -> list[bytes]:
        """Return what the open files of `root` have that have no name."""
        found = []
        for link in unnamed_files(self.root):
            with contextlib.suppress(FileNotFoundError):
                found.append(link.read_bytes())
        return found

    def named(self) -> dict[str, bytes]:
        """Return what the files of `root` have."""
        return {path.name: path.read_bytes() for path in self.root.iterdir()}


def unnamed_files(root: Path) -> list[Path]:
    """Return links to the open files of a folder that have no name."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        # What is closed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(link).startswith(f"{root}/#"):
                found.append(link)
    return found


@pytest.fixture
def getting(nursery: trio.Nursery, tmp_path: Path) -> Iterator[Getting]:
    getting = Getting(nursery, tmp_path)
    getting.sources.gate = GATE
    yield getting
    # No thread must be left that waits.
    getting.open()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not condition():
            await trio.sleep(0.01)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return from where on, and how many, bytes the kernel has copied, a call each."""
    copied: list[tuple[int, int]] = []
    copy = os.copy_file_range

    def note(source: int, fd: int, count: int, offset: int) -> int:
        count = copy(source, fd, count, offset)
        copied.append((offset, count))
        return count

    monkeypatch.setattr(os, "copy_file_range", note)
    return copied


@pytest.mark.parametrize("paths", ["a", "ab"])
async def test_it_is_copied_while_it_comes(
    getting: Getting, nursery: trio.Nursery, copied: list[tuple[int, int]], paths: str
) -> None:
    nursery.start_soon(getting.run, *paths)
    await until(lambda: getting.copies(GATE) == len(paths))
    assert getting.named() == {}
    getting.open()
    assert await getting.is_right(*paths)
    assert sum(count for _, count in copied) == len(CONTENT) * len(paths)
    assert all(offset % MIB == 0 for offset, _ in copied)
    assert (getting.root / "a").stat().st_mode & 0o777 == 0o644


async def test_it_has_no_name_before_it_is_checked(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = threading.Event()
    seal = LargeBlob.seal

    def seal_late(blob: LargeBlob) -> SealedBlob:
        assert checked.wait(WAIT_S)
        return seal(blob)

    monkeypatch.setattr(LargeBlob, "seal", seal_late)
    getting.open()
    nursery.start_soon(getting.run, "a")
    try:
        await until(lambda: getting.copies(len(CONTENT)) == 1)
        assert getting.named() == {}
    finally:
        checked.set()
    assert await getting.is_right("a")


@pytest.mark.parametrize("is_told", [True, False])
async def test_wrong_bytes_are_copied_anew(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    wrong = bytes(len(CONTENT))
    getting.sources.content = wrong
    seal, more = LargeBlob.seal, HashAhead.more
    was_copied = threading.Semaphore(0)

    def seal_once_copied(blob: LargeBlob) -> SealedBlob:
        assert was_copied.acquire(timeout=WAIT_S)
        getting.sources.content = CONTENT
        return seal(blob)

    async def tell_of_the_first(
        hashed: HashAhead, blob: LargeBlob | None, stop: int
    ) -> tuple[LargeBlob, int]:
        found = await more(hashed, blob, stop)
        if not is_told and blob not in (None, found[0]):
            await trio.sleep_forever()
        return found

    monkeypatch.setattr(LargeBlob, "seal", seal_once_copied)
    monkeypatch.setattr(HashAhead, "more", tell_of_the_first)
    getting.open()
    nursery.start_soon(getting.run, "a")
    try:
        await until(lambda: getting.copies(len(CONTENT), wrong) == 1)
        was_copied.release()
        if is_told:
            await until(lambda: getting.copies(len(CONTENT)) == 1)
            assert getting.named() == {}
    finally:
        was_copied.release()
    assert await getting.is_right("a")
    assert getting.resources.counters.failed_fetches == 1


async def test_wrong_bytes_twice_leave_nothing(getting: Getting, nursery: trio.Nursery) -> None:
    getting.sources.content = bytes(len(CONTENT))
    nursery.start_soon(getting.run, "a")
    await until(lambda: getting.unnamed() != [])
    getting.open()
    await until(getting.is_over.is_set)
    assert getting.tally is not None
    [error] = getting.tally.errors
    assert "twice" in error
    assert (getting.unnamed(), getting.named()) == ([], {})


async def test_what_the_cache_can_not_seal_is_written_past_it(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(blob: LargeBlob) -> SealedBlob:
        raise StoreError("the disk fails")

    put_past_cache = ToTarget.put_past_cache

    async def put_alone(target: ToTarget, wanted: Wanted, error: StoreError) -> int:
        # The target may have room for one only.
        assert getting.unnamed() == []
        return await put_past_cache(target, wanted, error)

    monkeypatch.setattr(LargeBlob, "seal", fail)
    monkeypatch.setattr(ToTarget, "put_past_cache", put_alone)
    nursery.start_soon(getting.run, "a")
    await until(lambda: getting.unnamed() != [])
    getting.open()
    assert await getting.is_right("a")


async def test_a_full_target_is_told_at_once(
    getting: Getting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", fail)
    with trio.fail_after(WAIT_S):
        await getting.run("a")
    assert getting.tally is not None
    assert isinstance(getting.tally.gave_up, TargetFull)
    assert "write" in getting.tally.errors[0]
    assert (getting.unnamed(), getting.named()) == ([], {})


async def test_a_target_that_has_room_for_one_copy_after_the_other(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = os.copy_file_range
    is_full: list[bool] = []

    def copy_one(*words: int) -> int:
        is_full.append(len(getting.unnamed()) > 1 and not getting.sources.opened.is_set())
        if is_full[-1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(*words)

    monkeypatch.setattr(os, "copy_file_range", copy_one)
    nursery.start_soon(getting.run, "a", "b")
    await until(lambda: any(is_full) and len(getting.unnamed()) < 2)
    getting.open()
    assert await getting.is_right("a", "b")


async def test_a_run_that_is_cancelled_leaves_nothing(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbfs.fetch.bulk.target.PIECE_BYTES", MIB)
    copy = os.copy_file_range
    goes_on = threading.Event()
    pieces: list[int] = []

    def copy_late(*words: int) -> int:
        pieces.append(1)
        assert goes_on.wait(WAIT_S)
        return copy(*words)

    monkeypatch.setattr(os, "copy_file_range", copy_late)
    nursery.start_soon(getting.run, "a")
    try:
        await until(lambda: pieces == [1])
        getting.scope.cancel()
        await getting.is_over.wait()
        await trio.testing.wait_all_tasks_blocked()
        # Its thread may still write to it.
        assert len(getting.unnamed()) == 1
    finally:
        goes_on.set()
    await until(lambda: not getting.resources.offload.busy()["copy"])
    await trio.testing.wait_all_tasks_blocked()
    assert pieces == [1]
    assert (getting.unnamed(), getting.named()) == ([], {})


@pytest.mark.parametrize("why", ["the cache needs the room", "there are no files without a name"])
async def test_where_it_is_copied_once_it_is_here(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "the cache needs the room":
        monkeypatch.setattr(Room, "free", len(CONTENT) - 1)
    else:
        monkeypatch.setattr(TargetFolder, "begin", lambda folder: None)
    asked: list[int] = []
    more = HashAhead.more

    async def note(hashed: HashAhead, blob: LargeBlob | None, stop: int) -> tuple[LargeBlob, int]:
        found = await more(hashed, blob, stop)
        asked.append(found[1])
        return found

    monkeypatch.setattr(HashAhead, "more", note)
    nursery.start_soon(getting.run, "a")
    await until(lambda: getting.sources.is_closed.is_set() and asked != [])
    await until(lambda: not getting.resources.offload.busy()["copy"])
    assert (getting.unnamed(), getting.named()) == ([], {})
    getting.open()
    assert await getting.is_right("a")
    assert len(asked) == 1


async def test_what_is_there_already_needs_no_room(
    getting: Getting,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    copied: list[tuple[int, int]],
    tmp_path: Path,
) -> None:
    def free(_: Room) -> int:
        blocks = {}
        for one in [*(tmp_path / "cache").rglob("md5-*"), *unnamed_files(getting.root)]:
            # It gets its name meanwhile.
            with contextlib.suppress(FileNotFoundError):
                blocks[one.stat().st_ino] = one.stat().st_blocks
        return 2 * len(CONTENT) + MIB - 512 * sum(blocks.values())

    monkeypatch.setattr(Room, "free", property(free))
    nursery.start_soon(getting.run, "a")
    await until(lambda: getting.copies(GATE) == 1)
    getting.open()
    assert await getting.is_right("a")
    assert sum(count for _, count in copied) == len(CONTENT)


async def test_another_disk_has_room_of_its_own(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "free", 0)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        getting.root = Path(folder, "root")
        nursery.start_soon(getting.run, "a")
        await until(lambda: getting.copies(GATE) == 1)
        getting.open()
        assert await getting.is_right("a")


async def test_another_copy_that_begins_takes_the_room(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, more = os.copy_file_range, HashAhead.more
    is_alone = threading.Event()
    followers: list[trio.lowlevel.Task] = []
    ended = False

    async def tell_one(
        hashed: HashAhead, blob: LargeBlob | None, stop: int
    ) -> tuple[LargeBlob, int]:
        followers.append(trio.lowlevel.current_task())
        found = await more(hashed, blob, stop)
        if trio.lowlevel.current_task() is not followers[0]:
            await until(is_alone.is_set)
        return found

    def fail_once(*words: int) -> int:
        nonlocal ended
        if ended:
            return copy(*words)
        ended = True
        is_alone.set()
        deadline = time.monotonic() + WAIT_S
        while len(getting.unnamed()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HashAhead, "more", tell_one)
    monkeypatch.setattr(os, "copy_file_range", fail_once)
    nursery.start_soon(getting.run, "a", "b")
    await until(lambda: ended)
    getting.open()
    assert await getting.is_right("a", "b")


async def test_a_folder_that_is_gone_in_the_end_leaves_no_copy(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ToTarget.put

    def fail(target: Target, path: str) -> TargetFolder:
        raise TargetError("it is gone")

    async def put_nowhere(
        target: ToTarget, wanted: Wanted, fd: int, following: Following | None
    ) -> bool:
        monkeypatch.setattr(Target, "folder", fail)
        return await put(target, wanted, fd, following)

    monkeypatch.setattr(ToTarget, "put", put_nowhere)
    nursery.start_soon(getting.run, "a")
    await until(lambda: getting.copies(GATE) == 1)
    getting.open()
    await until(getting.is_over.is_set)
    assert getting.tally is not None
    assert len(getting.tally.errors) == 1
    assert (getting.unnamed(), getting.named()) == ([], {})


async def test_a_copy_that_can_not_have_a_name(
    getting: Getting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: object, **more: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", fail)
    nursery.start_soon(getting.run, "a")
    await until(lambda: getting.copies(GATE) == 1)
    getting.open()
    assert await getting.is_right("a")


async def test_what_has_no_digest_is_compared_first(getting: Getting) -> None:
    delivery = ToTarget(Target(getting.root, umask=0o022), getting.resources)
    assert delivery.follow(Wanted(VERSION, ENTRY)) is not None
    without = dataclasses.replace(ENTRY, digest=None)
    assert delivery.follow(Wanted(VERSION, without)) is None

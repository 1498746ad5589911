"""Large files without a mount: what is asked for, what waits for what, and what is given up."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from fetching import file_of, resources

from wbfs.fetch.fetcher import Fetcher, Reader
from wbfs.fetch.work.background import Background
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, Version
from wbfs.model.errors import (
    BadHandle,
    Defect,
    IntegrityError,
    RemoteTimeout,
    StoreError,
    StoreFull,
)
from wbfs.remote.http.bytes import ByteStream
from wbfs.remote.http.gateway import Gateway
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.store.bounds.eviction import Bounds
from wbfs.store.content.blobs import SealedBlob
from wbfs.store.content.large_blob import LargeBlob
from wbfs.store.folder import temporary_file

MIB = 1 << 20
CONTENT = os.urandom(24 * MIB)
ENTRY = Entry(
    path="model.bin",
    size=len(CONTENT),
    digest=Digest(Algorithm.MD5, hashlib.md5(CONTENT).hexdigest()),
)
VERSION = Version(
    id="QQ==", entity="e", project="p", collection="c", name="v0", type="model", digest=""
)
PIECE = 64 << 10
WAIT_S = 100.0


class GatedSources:
    """Gives the content in pieces, but those at or past `gate` only once it is opened."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []
        self.were_checked: list[bool] = []
        self.sent = 0
        self.gate = len(CONTENT)
        self.opened = threading.Event()
        self.is_closed = threading.Event()
        self.content = CONTENT
        self.gateway = Gateway("", Transport())

    def origin(self, version: Version, entry: Entry) -> str:
        return "store.example"

    @contextmanager
    def open(
        self,
        version: Version,
        entry: Entry,
        *,
        start: int,
        stop: int | None,
        deadline: Deadline,
        is_checked: bool,
    ) -> Iterator[ByteStream]:
        self.asked.append((start, stop))
        self.were_checked.append(is_checked)
        yield ByteStream(size=len(CONTENT), etag="", pieces=self._pieces(start, stop))

    def _pieces(self, start: int, stop: int | None) -> Iterator[bytes]:
        end = len(CONTENT) if stop is None else stop
        while start < end:
            if start >= self.gate:
                self.is_closed.set()
                self.opened.wait(WAIT_S)
            piece = self.content[start : min(start + PIECE, end)]
            self.sent += len(piece)
            yield piece
            start += len(piece)


class LateFirstSources(GatedSources):
    """Gives what begins at 0 only once it is opened."""

    def _pieces(self, start: int, stop: int | None) -> Iterator[bytes]:
        if start == 0:
            self.opened.wait(WAIT_S)
        return super()._pieces(start, stop)


class Setting:
    """A fetcher with a store of its own, and what it told the kernel to forget."""

    def __init__(
        self,
        nursery: trio.Nursery,
        cache_dir: Path,
        sources: GatedSources | None = None,
        *,
        verify_always: bool = False,
        timeout_s: float = WAIT_S,
    ) -> None:
        self.sources = sources or GatedSources()
        self.dropped: list[frozenset[int]] = []
        self.resources = resources(
            Background(nursery), cache_dir, self.sources, timeout_s=timeout_s
        )
        self.fetcher = Fetcher(
            self.resources,
            verify_always=verify_always,
            path_prefix="",
            drop_pages=self.dropped.append,
        )

    def open(self, inode: int = 1) -> Reader:
        return self.fetcher.reader(VERSION, file_of(ENTRY), inode)


@pytest.fixture
def setting(nursery: trio.Nursery, tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(nursery, tmp_path)
    yield setting
    # No thread must be left that waits.
    setting.sources.opened.set()


async def read(reader: Reader, offset: int, size: int) -> None:
    with trio.fail_after(WAIT_S):
        assert await reader.read(offset, size) == CONTENT[offset : offset + size]


async def settled(setting: Setting) -> None:
    with trio.fail_after(WAIT_S):
        while setting.fetcher.fetching:
            await trio.sleep(0.01)


async def test_a_reader_waits_for_its_own_bytes_only(nursery: trio.Nursery, tmp_path: Path) -> None:
    setting = Setting(nursery, tmp_path, timeout_s=5)
    reader = setting.open()
    setting.sources.gate = PIECE
    # The request is for more, and the rest of it does not come.
    await read(reader, 0, 4096)
    assert setting.sources.asked == [(0, 256 << 10)]
    with pytest.raises(RemoteTimeout, match="no answer within 5 s"):
        await reader.read(PIECE, 4096)
    # An answer that stalls is asked for anew, from where it stopped, and that does not come either.
    asked = [(0, 256 << 10), (PIECE, 256 << 10)]
    assert setting.sources.asked == asked
    setting.sources.opened.set()
    other = setting.open()
    await read(other, PIECE, 4096)
    assert setting.sources.asked == asked
    reader.close()
    other.close()


async def test_one_range_is_asked_for_once(setting: Setting, nursery: trio.Nursery) -> None:
    setting.sources.gate = 0
    readers = [setting.open(number) for number in range(20)]
    for reader in readers:
        nursery.start_soon(read, reader, 5 * MIB, 100_000)
    with trio.fail_after(WAIT_S):
        while not setting.sources.asked:
            await trio.sleep(0.01)
    setting.sources.opened.set()
    await settled(setting)
    assert setting.sources.asked == [(5 * MIB, 5 * MIB + (256 << 10))]
    for reader in readers:
        reader.close()


async def test_read_ahead_ends_with_its_handle(setting: Setting) -> None:
    reader = setting.open()
    setting.sources.gate = 3 * MIB
    for offset in range(0, 3 * MIB, MIB):
        await read(reader, offset, MIB)
    assert setting.fetcher.fetching > 0
    reader.close()
    setting.sources.opened.set()
    await settled(setting)
    assert setting.sources.sent < 6 * MIB


async def test_whole_and_sealed(setting: Setting) -> None:
    fd = await setting.fetcher.ensure(VERSION, ENTRY)
    assert os.pread(fd, len(CONTENT), 0) == CONTENT
    os.close(fd)
    assert setting.sources.sent == len(CONTENT)
    assert setting.fetcher.counters.fetched_files == 1
    # Nothing is kept in use.
    with trio.fail_after(WAIT_S):
        while setting.fetcher.large._files:
            await trio.sleep(0.01)


async def test_wrong_bytes_are_dropped_and_then_checked_first(setting: Setting) -> None:
    wrong = bytearray(CONTENT)
    wrong[7 * MIB] ^= 1
    setting.sources.content = bytes(wrong)
    reader = setting.open(inode=7)
    for offset in range(0, len(CONTENT), MIB):
        await reader.read(offset, MIB)
    with trio.fail_after(WAIT_S):
        while not setting.dropped:
            await trio.sleep(0.01)
    assert setting.dropped == [frozenset({7})]
    setting.sources.content = CONTENT
    await read(reader, 7 * MIB, 4096)
    assert setting.sources.sent == 2 * len(CONTENT)
    reader.close()


async def test_wrong_bytes_twice_are_an_error(setting: Setting) -> None:
    setting.sources.content = bytes(len(CONTENT))
    reader = setting.open()
    for offset in range(0, len(CONTENT), MIB):
        await reader.read(offset, MIB)
    with trio.fail_after(WAIT_S):
        while not setting.dropped:
            await trio.sleep(0.01)
    with pytest.raises(IntegrityError, match="can't read e/p/c:v0/model.bin: .*, twice"):
        await reader.read(0, 4096)
    reader.close()
    await settled(setting)
    # Nor is a byte of it served to the next.
    with trio.fail_after(WAIT_S):
        while setting.fetcher.large._files:
            await trio.sleep(0.01)
    again = setting.open()
    with pytest.raises(IntegrityError):
        await again.read(0, 4096)
    again.close()


@pytest.mark.parametrize("remembered_s", [0.0, WAIT_S])
async def test_an_error_that_is_told_often_does_not_grow(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, remembered_s: float
) -> None:
    monkeypatch.setattr("wbfs.fetch.fetcher.FAILURE_MEMORY_S", remembered_s)
    setting.sources.content = bytes(len(CONTENT))
    with pytest.raises(IntegrityError):
        await setting.fetcher.ensure(VERSION, ENTRY)
    reader = setting.open()
    lengths = []
    for _ in range(10):
        with trio.fail_after(WAIT_S), pytest.raises(IntegrityError) as caught:
            await reader.read(0, 4096)
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert lengths[9] == lengths[5]
    reader.close()


async def test_verify_always(nursery: trio.Nursery, tmp_path: Path) -> None:
    setting = Setting(nursery, tmp_path, verify_always=True)
    reader = setting.open()
    await read(reader, 0, 10)
    assert setting.sources.sent == len(CONTENT)
    reader.close()


async def test_it_is_not_hashed_twice_at_once(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbfs.fetch.large.generation.AT_ONCE", 2)
    setting = Setting(nursery, tmp_path, LateFirstSources())

    async def open_late() -> None:
        while setting.sources.sent < len(CONTENT) - 16 * MIB or setting.fetcher.fetching != 1:
            await trio.sleep(0.01)
        setting.sources.opened.set()

    nursery.start_soon(open_late)
    with trio.fail_after(WAIT_S):
        os.close(await setting.fetcher.ensure(VERSION, ENTRY))
    assert setting.sources.sent == len(CONTENT)


@contextmanager
def digest_that_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have no bytes be taken into digests until it is left."""
    goes_on = threading.Event()
    check_ahead = LargeBlob.check_ahead

    def check_late(blob: LargeBlob, stop: int) -> None:
        assert goes_on.wait(WAIT_S)
        check_ahead(blob, stop)

    monkeypatch.setattr(LargeBlob, "check_ahead", check_late)
    try:
        yield
    finally:
        goes_on.set()


async def want_all(setting: Setting, got: trio.Event) -> None:
    """Have all of the file fetched and checked, and tell when it is."""
    os.close(await setting.fetcher.ensure(VERSION, ENTRY))
    got.set()


async def test_no_more_is_fetched_than_the_digest_keeps_up_with(
    setting: Setting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbfs.fetch.large.generation.AT_ONCE", 1)
    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.MOST_UNHASHED", 4 * MIB)
    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.KEEP_UP_S", WAIT_S)
    got = trio.Event()
    with digest_that_waits(monkeypatch):
        nursery.start_soon(want_all, setting, got)
        await _until(lambda: setting.sources.sent == 8 * MIB)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert setting.sources.asked == [(0, 8 * MIB)]
    await _until(got.is_set)
    assert setting.sources.sent == len(CONTENT)


async def test_what_was_here_before_does_not_wait_for_the_digest(
    setting: Setting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbfs.fetch.large.generation.AT_ONCE", 1)
    monkeypatch.setattr("wbfs.fetch.large.planner.LARGEST_WINDOW", 0)
    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.MOST_UNHASHED", 8 * MIB)
    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.KEEP_UP_S", 2 * WAIT_S)
    reader = setting.open()
    for offset in range(0, 12 * MIB, MIB):
        await read(reader, offset, MIB)
    reader.close()
    await settled(setting)
    got = trio.Event()
    with digest_that_waits(monkeypatch):
        nursery.start_soon(want_all, setting, got)
        await _until(lambda: setting.sources.sent == len(CONTENT))
    await _until(got.is_set)


async def test_what_is_fetched_once_more_is_taken_into_the_digest_as_it_comes(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbfs.fetch.large.generation.AT_ONCE", 1)
    setting.sources.content = bytes(len(CONTENT))
    stops: list[int] = []
    check_ahead = LargeBlob.check_ahead

    def check_and_note(blob: LargeBlob, stop: int) -> None:
        check_ahead(blob, stop)
        stops.append(stop)
        if stop == len(CONTENT):
            setting.sources.content = CONTENT

    monkeypatch.setattr(LargeBlob, "check_ahead", check_and_note)
    with trio.fail_after(WAIT_S):
        os.close(await setting.fetcher.ensure(VERSION, ENTRY))
    assert stops.count(8 * MIB) == 2


async def test_a_digest_that_does_not_go_on_is_waited_for_once(
    setting: Setting, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbfs.fetch.large.generation.AT_ONCE", 1)
    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.MOST_UNHASHED", 0)
    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.KEEP_UP_S", 0.125)
    waits: list[float] = []
    move_on_after = trio.move_on_after

    def note(seconds: float) -> trio.CancelScope:
        waits.append(seconds)
        return move_on_after(seconds)

    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.trio.move_on_after", note)
    got = trio.Event()
    with digest_that_waits(monkeypatch):
        nursery.start_soon(want_all, setting, got)
        await _until(lambda: setting.sources.sent == len(CONTENT))
        assert waits.count(0.125) == 1
    await _until(got.is_set)


async def test_a_session_ends_while_a_file_comes_that_nobody_waits_for(tmp_path: Path) -> None:
    # In which order what is under way ends is left to chance.
    for number in range(8):
        sources = GatedSources()
        sources.gate = 16 * MIB
        async with trio.open_nursery() as session:
            setting = Setting(session, tmp_path / str(number), sources)
            with trio.CancelScope() as waiting:
                session.start_soon(_cancel_late, setting, waiting)
                await setting.fetcher.ensure(VERSION, ENTRY)
            session.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        sources.opened.set()


async def _cancel_late(setting: Setting, waiting: trio.CancelScope) -> None:
    await _until(lambda: len(setting.sources.asked) == 3 and setting.fetcher.fetching == 1)
    waiting.cancel()


@pytest.mark.parametrize("failing", [0, 1])
async def test_who_waits_for_the_digest_does_not_wait_where_none_is_taken(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    # However little may be left, the last of it is taken as the file is sealed.
    monkeypatch.setattr("wbfs.fetch.large.generation.AT_ONCE", 1)
    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.MOST_UNHASHED", -1)
    monkeypatch.setattr("wbfs.fetch.large.hash_ahead.KEEP_UP_S", 2 * WAIT_S)
    failures = _fail_at_first(monkeypatch, failing)
    with trio.fail_after(WAIT_S):
        os.close(await setting.fetcher.ensure(VERSION, ENTRY))
    assert failures == []


def _fail_at_first(monkeypatch: pytest.MonkeyPatch, count: int) -> list[StoreError]:
    """Have the digest fail to go on so many times; return the failures that are left."""
    failures = [StoreError("the disk fails")] * count
    check_ahead = LargeBlob.check_ahead

    def fail_or_check(blob: LargeBlob, stop: int) -> None:
        if failures:
            raise failures.pop()
        check_ahead(blob, stop)

    monkeypatch.setattr(LargeBlob, "check_ahead", fail_or_check)
    return failures


async def test_a_whole_file_waits_for_a_request_that_stalls(
    setting: Setting, nursery: trio.Nursery
) -> None:
    reader = setting.open()
    setting.sources.gate = PIECE
    await read(reader, 0, 4096)
    await _until(setting.sources.is_closed.is_set)
    setting.sources.gate = len(CONTENT)
    # The first request hangs at the gate; others bring what it was to bring.
    for offset in range(0, len(CONTENT), MIB):
        await read(reader, offset, MIB)
    await _until(lambda: setting.fetcher.fetching == 1)
    got = trio.Event()
    nursery.start_soon(want_all, setting, got)
    # Everything else goes on.
    await trio.testing.wait_all_tasks_blocked()
    assert not got.is_set()
    setting.sources.opened.set()
    await _until(got.is_set)
    reader.close()


async def test_a_whole_file_of_which_readers_bring_some_meanwhile(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbfs.fetch.large.generation.AT_ONCE", 1)
    setting = Setting(nursery, tmp_path, LateFirstSources())
    got = trio.Event()
    nursery.start_soon(want_all, setting, got)
    await _until(lambda: setting.sources.asked != [])
    reader = setting.open()
    await read(reader, len(CONTENT) - 4096, 4096)
    await read(reader, 13 * MIB, 4096)
    await _until(lambda: setting.fetcher.fetching == 1)
    setting.sources.opened.set()
    await _until(got.is_set)
    assert setting.sources.sent == len(CONTENT)
    reader.close()


async def test_what_can_not_be_read_is_not_served_unchecked(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(nursery, tmp_path, verify_always=True)
    reader = setting.open()
    await read(reader, 0, 4096)

    def fail(*_: object) -> None:
        raise StoreError("can't read a cached blob: Input/output error")

    monkeypatch.setattr(LargeBlob, "read_in_memory", fail)
    setting.sources.content = bytes(len(CONTENT))
    with pytest.raises(StoreError, match=r"model\.bin: can't read a cached blob"):
        await reader.read(MIB, 4096)
    reader.close()


async def test_room_for_a_large_file_is_made_beside_the_trio_thread(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    evicting, may_end = threading.Event(), threading.Event()

    def evict(size: int = 0) -> bool:
        evicting.set()
        assert may_end.wait(WAIT_S)
        return False

    def full(path: Path) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(setting.resources.room, "evict", evict)
    monkeypatch.setattr("wbfs.store.content.partial.create_file", full)
    reader = setting.open()
    await read(reader, 0, 4096)
    await _until(evicting.is_set)
    may_end.set()
    reader.close()


async def test_the_store_is_tried_again_for_what_is_to_be_checked_first(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(nursery, tmp_path, verify_always=True)

    def fail(blob: object) -> None:
        raise StoreFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(setting.resources.partial, "large", fail)
        reader = setting.open()
        with pytest.raises(StoreError, match="it can't be kept to be checked"):
            await reader.read(0, 4096)
    monkeypatch.setattr("wbfs.fetch.large.content.PAST_STORE_S", -1.0)
    monkeypatch.setattr("wbfs.fetch.fetcher.FAILURE_MEMORY_S", 0.0)
    await read(reader, 0, 4096)
    reader.close()


def by_gateway(setting: Setting) -> Setting:
    """Have bytes come by a gateway that is not trusted."""
    setting.sources.gateway.learn(ENTRY.blob, 1, trouble="")
    return setting


async def test_what_comes_by_a_gateway_is_checked_first(setting: Setting) -> None:
    by_gateway(setting)
    wrong = bytearray(CONTENT)
    wrong[7 * MIB] ^= 1
    right, setting.sources.content = setting.sources.content, bytes(wrong)
    setting.sources.gateway.distrust = lambda blob: setattr(setting.sources, "content", right)
    reader = setting.open(inode=7)
    await read(reader, 7 * MIB, MIB)
    assert setting.sources.sent == 2 * len(CONTENT)
    # Nothing of it was shown.
    assert not any(setting.dropped)
    reader.close()


async def test_where_it_can_not_be_checked_the_store_itself_is_asked(
    setting: Setting, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(blob: LargeBlob) -> SealedBlob:
        raise StoreError("the disk failed")

    by_gateway(setting)
    monkeypatch.setattr(LargeBlob, "seal", fail)
    reader = setting.open()
    await read(reader, MIB, 4096)
    assert setting.sources.asked[-1] == (MIB, MIB + 4096)
    assert setting.sources.were_checked[-2:] == [True, False]
    reader.close()
    setting.fetcher.close()
    # Nor is it there for a later mount, which would not know where it is from.
    later = Setting(nursery, tmp_path)
    reader = later.open()
    await read(reader, 0, 4096)
    assert later.sources.asked == [(0, 256 << 10)]
    reader.close()


async def test_a_defect_while_wrong_bytes_are_dropped_is_told(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(blob: LargeBlob) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(LargeBlob, "discard", fail)
    setting.sources.content = bytes(len(CONTENT))
    with trio.fail_after(WAIT_S), pytest.raises(Defect):
        await setting.fetcher.ensure(VERSION, ENTRY)
    assert setting.resources.background.defects == 1


async def test_no_room_for_the_map(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = temporary_file

    def full(folder: Path, *, prefix: str) -> tuple[int, Path]:
        if ".map." in prefix:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return make(folder, prefix=prefix)

    monkeypatch.setattr("wbfs.store.content.large_blob.temporary_file", full)
    setting = Setting(nursery, tmp_path, verify_always=True)
    reader = setting.open()
    await read(reader, 0, 10)
    assert setting.resources.blobs.open(ENTRY.blob) is not None
    reader.close()


@pytest.mark.parametrize("is_sealed_first", [True, False])
async def test_one_digest_with_two_sizes(setting: Setting, is_sealed_first: bool) -> None:
    wrong = dataclasses.replace(ENTRY, path="wrong.bin", size=len(CONTENT) - MIB)
    good = setting.open(1)
    if is_sealed_first:
        os.close(await setting.fetcher.ensure(VERSION, ENTRY))
    else:
        await read(good, 0, 4096)
    bad = setting.fetcher.reader(VERSION, file_of(wrong), 2)
    with trio.fail_after(WAIT_S), pytest.raises(IntegrityError, match="the manifest says"):
        await bad.read(0, 4096)
    assert setting.resources.blobs.path(ENTRY.blob).exists() is is_sealed_first
    await read(good, len(CONTENT) - 4096, 4096)
    with trio.fail_after(WAIT_S):
        os.close(await setting.fetcher.ensure(VERSION, ENTRY))
    assert setting.resources.blobs.path(ENTRY.blob).read_bytes() == CONTENT
    bad.close()
    good.close()


async def test_a_cache_that_is_removed_while_it_is_read(setting: Setting, tmp_path: Path) -> None:
    setting.resources.room.bounds = Bounds(limit=None, min_free=1)
    reader = setting.open()
    await read(reader, 0, 4096)
    shutil.rmtree(tmp_path)
    for offset in range(0, len(CONTENT), MIB):
        await read(reader, offset, MIB)
    assert setting.resources.room.trouble is None
    reader.close()


async def test_what_comes_while_a_file_is_written_to_disk_is_kept(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushing, may_end = threading.Event(), threading.Event()
    flush = LargeBlob.flush

    def wait(blob: LargeBlob, held: list[tuple[int, int]]) -> None:
        flushing.set()
        assert may_end.wait(WAIT_S)
        flush(blob, held)

    monkeypatch.setattr(LargeBlob, "flush", wait)
    for offset in (0, 12 * MIB):
        reader = setting.open()
        await read(reader, offset, 4096)
        await settled(setting)
        reader.close()
        await _until(flushing.is_set)
    may_end.set()
    await _until(lambda: not setting.fetcher.large._files)
    blob = setting.resources.partial.large(ENTRY.blob)
    assert blob.held.missing(0, 4096) == blob.held.missing(12 * MIB, 12 * MIB + 4096) == []
    blob.close()


async def test_closed_while_it_is_looked_for(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = setting.open()

    async def find(origin: object) -> None:
        reader.close()

    monkeypatch.setattr(setting.fetcher, "find", find)
    with pytest.raises(BadHandle, match="closed"):
        await reader.read(0, 4096)
    assert not setting.fetcher.large._files


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not condition():
            await trio.sleep(0.01)

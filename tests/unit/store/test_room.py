"""Room is made before bytes are written, by whichever thread or process needs it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from disk import taken

from wbfs.model.errors import StoreError, StoreFull
from wbfs.store.bounds.eviction import Bounds, Pruned, prune
from wbfs.store.bounds.room import Room, State
from wbfs.store.bounds.tally import BUSY_S, Numbers, Tally
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.folder import prepare_cache

SIZE = 1 << 16
LIMIT = 10 * SIZE


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    prepare_cache(tmp_path / "cache")
    return tmp_path / "cache"


def room_of(cache_dir: Path, limit: int | None = LIMIT) -> Room:
    return Room(cache_dir, SdkCache(cache_dir / "sdk"), Bounds(limit=limit, min_free=None))


def add(room: Room, cache_dir: Path, number: int) -> Path:
    """Write a blob that was used the earlier, the smaller its number."""
    path = cache_dir / "blobs" / "ab" / f"md5-{number}"
    path.parent.mkdir(exist_ok=True)
    room.add(SIZE, lambda: path.write_bytes(bytes(SIZE)), doing=f"write {path}")
    # Another thread may have made room with it.
    with contextlib.suppress(FileNotFoundError):
        os.utime(path, ns=((number + 1) * 10**9, 10**9))
    return path


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_what_was_used_least_recently_makes_room(cache_dir: Path) -> None:
    room = room_of(cache_dir)
    paths = [add(room, cache_dir, number) for number in range(25)]
    left = [path for path in paths if path.exists()]
    assert left == paths[-len(left) :]
    assert len(left) in (9, 10)
    assert room.used == len(left) * SIZE
    assert (room.state, room.trouble) == (State.CACHING, None)


def test_what_was_there_before_is_counted_first(cache_dir: Path) -> None:
    before = room_of(cache_dir, limit=None)
    for number in range(20):
        add(before, cache_dir, number)
    (cache_dir / "used.count").unlink()
    room = room_of(cache_dir)
    assert room.left == 0
    room.take(SIZE)
    assert room.used is not None
    assert room.used <= LIMIT
    assert sum(path.is_file() for path in (cache_dir / "blobs").rglob("*")) <= 9


def test_what_is_too_large_is_refused_and_the_rest_goes_on(cache_dir: Path) -> None:
    room = room_of(cache_dir)
    with pytest.raises(StoreFull, match="no room"):
        room.take(LIMIT + 1)
    assert room.state is State.FULL
    assert "no room" in (room.trouble or "")
    assert room.is_full
    # What fits is taken all the same.
    room.take(SIZE)
    with pytest.raises(StoreFull):
        room.take(LIMIT)
    room.give_back(SIZE)
    room.take(LIMIT)


def test_two_rooms_share_one_count(cache_dir: Path) -> None:
    rooms = [room_of(cache_dir), room_of(cache_dir)]
    rooms[0].count()
    for number in range(30):
        add(rooms[number % 2], cache_dir, number)
        assert sum(path.is_file() for path in (cache_dir / "blobs").rglob("*")) <= 10
    assert rooms[0].used == rooms[1].used


def test_threads_that_write_at_once(cache_dir: Path) -> None:
    room = room_of(cache_dir, limit=4 * LIMIT)
    most = 0

    def write(first: int) -> None:
        nonlocal most
        for number in range(first, first + 25):
            add(room, cache_dir, number)
            most = max(most, taken(cache_dir / "blobs"))

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 10 * SIZE < most <= 40 * SIZE
    room.count()
    assert room.used == SIZE * sum(path.is_file() for path in (cache_dir / "blobs").rglob("*"))


def test_what_others_take_while_a_scan_finds_nothing_too_much(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others = room_of(cache_dir), room_of(cache_dir)
    mine.count()
    # Counted, and no longer there.
    mine.take(LIMIT)

    def prune_meanwhile(*args: Any, **options: Any) -> Pruned:
        pruned = prune(*args, **options)
        monkeypatch.undo()
        with others._tally.locked() as numbers:
            numbers.taken += LIMIT
        return pruned

    monkeypatch.setattr("wbfs.store.bounds.room.prune", prune_meanwhile)
    mine.take(SIZE)
    assert mine.state is State.CACHING


def test_a_count_that_somebody_removed(cache_dir: Path) -> None:
    room = room_of(cache_dir)
    for number in range(9):
        add(room, cache_dir, number)
    (cache_dir / "used.count").write_text("damaged")
    add(room, cache_dir, 9)
    assert room.used is not None
    assert 9 * SIZE <= room.used <= LIMIT


def test_small_pieces_are_counted_many_at_a_time(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = room_of(cache_dir, limit=1000 * SIZE)
    room.count()
    locked = 0
    lock = Tally.locked

    def count(tally: Tally) -> AbstractContextManager[Numbers]:
        nonlocal locked
        locked += 1
        return lock(tally)

    monkeypatch.setattr(Tally, "locked", count)
    path = cache_dir / "blobs" / "file"
    with path.open("wb", buffering=0) as file:
        for _ in range(640):
            room.add(SIZE // 64, lambda: file.write(bytes(SIZE // 64)), doing="write a file")
            used = room.used
            assert used is not None
            # At any moment, and by not much more.
            assert path.stat().st_size <= used <= path.stat().st_size + (1 << 20)
    assert locked < 20
    room.count()
    assert room.used is not None
    assert path.stat().st_blocks * 512 <= room.used <= 11 * SIZE + (1 << 20)


def test_a_process_that_is_stopped_with_the_count_is_waited_for_once(cache_dir: Path) -> None:
    room = room_of(cache_dir, limit=1000 * SIZE)
    add(room, cache_dir, 0)
    before_s = time.monotonic()
    with (cache_dir / "used.count").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for number in range(1, 50):
            add(room, cache_dir, number)
    assert BUSY_S <= time.monotonic() - before_s < 25 * BUSY_S
    assert room.used is not None
    assert 50 * SIZE <= room.used <= 50 * SIZE + (1 << 20)


def test_a_quota_that_only_the_write_finds(cache_dir: Path) -> None:
    room = room_of(cache_dir, limit=None)
    first = add(room, cache_dir, 0)
    errors = [errno.EDQUOT]

    def write() -> str:
        if errors:
            fail(errors.pop())
        return "written"

    assert room.add(SIZE, write, doing="write a file") == "written"
    assert not first.exists()
    with pytest.raises(StoreFull, match="can't write a file: the disk is full"):
        room.add(SIZE, lambda: fail(errno.ENOSPC), doing="write a file")
    assert room.state is State.FULL


def test_a_disk_that_fails_is_left_alone_for_a_while(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = room_of(cache_dir, limit=None)
    before = room.used
    for _ in range(3):
        with pytest.raises(StoreError, match="Input/output error"):
            room.add(SIZE, lambda: fail(errno.EIO), doing="write a file")
    assert room.used == before
    assert room.state is State.FAILING
    assert caplog.text.count("read past the cache") == 1
    with pytest.raises(StoreError, match="nothing is cached for now"):
        room.add(SIZE, lambda: None, doing="write a file")
    monkeypatch.setattr(room, "_failed_until", 0.0)
    room.add(SIZE, lambda: None, doing="write a file")
    assert (room.state, room.trouble) == (State.CACHING, None)
    assert caplog.text.count("is used again") == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.ENOENT])
def test_what_is_not_the_disks_fault_stops_no_caching(cache_dir: Path, number: int) -> None:
    room = room_of(cache_dir)
    with pytest.raises(StoreError):
        room.add(SIZE, lambda: fail(number), doing="write a file")
    assert room.state is State.CACHING
    assert room.add(SIZE, lambda: "written", doing="write a file") == "written"

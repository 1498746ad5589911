"""Eviction: what was used least recently goes, what is open stays, and it stops in time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wbfs.cli.words.sizes import Size, show_size
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Blob
from wbfs.store.bounds.eviction import Bounds, Pruned, cached_files, excess, remove_unless_open
from wbfs.store.bounds.eviction import prune as prune_to
from wbfs.store.bounds.inventory import summary, verify
from wbfs.store.bounds.room import Room
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.partial import PartialBlobs
from wbfs.store.content.sdk_cache import SdkCache

SIZE = 1 << 16
COUNT = 10


def add(cache_dir: Path, blobs: Blobs, number: int) -> Blob:
    """Add a blob whose last use is the older, the smaller its number."""
    content = bytes([number]) * SIZE
    digest = Digest(Algorithm.MD5, hashlib.md5(content).hexdigest())
    blob = Blob(key=f"md5-{digest.hex}", size=SIZE, digest=digest)
    with PartialBlobs(cache_dir, blobs).small(blob) as partial:
        partial.write(0, content)
        partial.seal()
    blobs.flush()
    found = blobs.path(blob).stat()
    os.utime(blobs.path(blob), ns=((1_000_000 + number) * 10**9, found.st_mtime_ns))
    return blob


@pytest.fixture
def sdk_cache(tmp_path: Path) -> SdkCache:
    return SdkCache(tmp_path / "sdk")


@pytest.fixture
def blobs(tmp_path: Path, sdk_cache: SdkCache) -> Blobs:
    room = Room(tmp_path / "cache", sdk_cache, Bounds(limit=None, min_free=None))
    return Blobs(tmp_path / "cache", sdk_cache, room=room, file_mode=0o600)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def filled(cache_dir: Path, blobs: Blobs) -> list[Blob]:
    return [add(cache_dir, blobs, number) for number in range(COUNT)]


Prune = Callable[..., Pruned]


@pytest.fixture
def prune(cache_dir: Path, sdk_cache: SdkCache) -> Prune:
    def prune(bounds: Bounds, *, spare: bool = True) -> Pruned:
        return prune_to(cache_dir, bounds, sdk_cache, spare=spare)

    return prune


def left(blobs: Blobs, filled: list[Blob]) -> list[int]:
    return [number for number, blob in enumerate(filled) if blobs.path(blob).exists()]


def limit(size: int) -> Bounds:
    return Bounds(limit=size, min_free=None)


def test_the_oldest_go_first(prune: Prune, blobs: Blobs, filled: list[Blob]) -> None:
    pruned = prune(limit(4 * SIZE), spare=False)
    assert left(blobs, filled) == [6, 7, 8, 9]
    assert (pruned.removed_files, pruned.removed, pruned.kept) == (6, 6 * SIZE, 4 * SIZE)


def test_nothing_goes_within_bounds(prune: Prune, blobs: Blobs, filled: list[Blob]) -> None:
    assert prune(limit(COUNT * SIZE)).removed == 0
    assert prune(Bounds(limit=None, min_free=None)).removed == 0
    assert prune(Bounds(limit=None, min_free=1)).removed == 0
    assert left(blobs, filled) == list(range(COUNT))


def test_some_room_to_spare(prune: Prune, blobs: Blobs, filled: list[Blob]) -> None:
    assert prune(limit(8 * SIZE)).kept == 7 * SIZE


def test_use_is_noted_and_what_is_open_stays(
    cache_dir: Path, prune: Prune, blobs: Blobs, filled: list[Blob]
) -> None:
    used = blobs.open(filled[0])
    assert used is not None
    del used
    opened = blobs.open(filled[1])
    assert opened is not None
    prune(limit(2 * SIZE), spare=False)
    assert left(blobs, filled) == [0, 1]
    prune(limit(0), spare=False)
    assert left(blobs, filled) == [1]
    assert os.pread(opened.fd, 3, 0) == b"\1\1\1"
    del opened
    prune(limit(0), spare=False)
    assert list(cached_files(cache_dir)) == []


def test_the_disks_floor(cache_dir: Path, prune: Prune, blobs: Blobs, filled: list[Blob]) -> None:
    disk = os.statvfs(cache_dir)
    free = disk.f_bavail * disk.f_frsize
    bounds = Bounds(limit=None, min_free=free * 2)
    assert excess(cache_dir, 0, bounds) == pytest.approx(free, rel=0.1)
    # All that there is does not suffice; that is said, and no error.
    assert prune(bounds).kept == 0


def test_a_cache_that_is_not_there(tmp_path: Path, sdk_cache: SdkCache) -> None:
    assert prune_to(tmp_path / "nothing", limit(0), sdk_cache).removed_files == 0


def test_the_sdks_names_go_with_ours_and_its_own_files_stay(
    tmp_path: Path, prune: Prune, blobs: Blobs, filled: list[Blob]
) -> None:
    def slots() -> list[Path]:
        return [path for path in (tmp_path / "sdk/artifacts/obj").rglob("*") if path.is_file()]

    assert len(slots()) == COUNT
    # One that the SDK had first: it is found by its digest, and no room is taken by it.
    theirs = filled[3].digest
    assert theirs is not None
    slot = tmp_path / "sdk/artifacts/obj/md5" / theirs.hex[:2] / theirs.hex[2:]
    content = slot.read_bytes()
    slot.unlink()
    blobs.path(filled[3]).unlink()
    slot.write_bytes(content)
    assert blobs.open(filled[3]) is None
    assert blobs.check(filled[3]) is not None
    assert os.path.samefile(slot, blobs.path(filled[3]))
    blobs.flush()
    pruned = prune(limit(0))
    assert pruned.removed == (COUNT - 1) * SIZE
    assert left(blobs, filled) == []
    assert slots() == [slot]


def test_partial_blobs_go_with_their_maps(cache_dir: Path, prune: Prune, blobs: Blobs) -> None:
    content = bytes(SIZE)
    digest = Digest(Algorithm.MD5, hashlib.md5(content).hexdigest())
    blob = Blob(key=f"md5-{digest.hex}", size=SIZE, digest=digest)
    partial = PartialBlobs(cache_dir, blobs).large(blob)
    partial.write(0, content)
    partial.save([(0, SIZE)])
    assert prune(limit(0)).removed == 0
    del partial
    assert len(list((cache_dir / "partial").iterdir())) == 2
    assert prune(limit(0)).removed == SIZE
    assert list((cache_dir / "partial").iterdir()) == []


def test_summary_and_verify(cache_dir: Path, blobs: Blobs, filled: list[Blob]) -> None:
    assert (summary(cache_dir).blobs, summary(cache_dir).blob_bytes) == (COUNT, COUNT * SIZE)
    damaged = blobs.path(filled[3])
    damaged.chmod(0o600)
    damaged.write_bytes(b"x" * SIZE)
    (damaged.parent / "ref-unknown").write_bytes(b"a reference's bytes")
    verified = verify(cache_dir)
    assert (verified.good, verified.unknown) == (COUNT - 1, 1)
    assert verified.damaged == (filled[3].key,)
    assert left(blobs, filled) == [0, 1, 2, *range(4, COUNT)]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("1k", 1000),
        ("20GB", 20 * 10**9),
        ("1.5GiB", 3 << 29),
        ("2tib", 2 << 40),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


def test_sizes_are_shown() -> None:
    shown = [show_size(size) for size in (0, 999, 1000, 1_550_000, 20 * 10**9, 10**15)]
    assert shown == ["0 B", "999 B", "1.0 kB", "1.6 MB", "20.0 GB", "1000.0 TB"]


def test_what_was_sealed_anew_stays(
    cache_dir: Path, blobs: Blobs, sdk_cache: SdkCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = add(cache_dir, blobs, 1)
    flock = fcntl.flock

    def seal_once_locked(fd: int, kind: int) -> None:
        flock(fd, kind)
        monkeypatch.undo()
        add(cache_dir, blobs, 1)

    monkeypatch.setattr("wbfs.store.bounds.eviction.fcntl.flock", seal_once_locked)
    assert not remove_unless_open(blobs.path(blob), sdk_cache)
    assert blobs.open(blob) is not None


@pytest.mark.parametrize("number", [errno.EBADF, errno.EROFS, errno.EIO])
def test_a_disk_in_trouble_is_left_alone(
    prune: Prune,
    blobs: Blobs,
    filled: list[Blob],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def fail(fd: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("wbfs.store.bounds.eviction.fcntl.flock", fail)
    pruned = prune(limit(0))
    assert (pruned.removed, pruned.still_over) == (0, True)
    assert left(blobs, filled) == list(range(COUNT))
    assert os.strerror(number) in caplog.text


def test_what_is_planted_hangs_nothing(
    cache_dir: Path, prune: Prune, blobs: Blobs, filled: list[Blob], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    for blob in filled[:2]:
        blobs.path(blob).unlink()
    os.mkfifo(blobs.path(filled[0]))
    blobs.path(filled[1]).symlink_to(target)
    assert [blobs.open(blob) for blob in filled[:2]] == [None, None]
    assert verify(cache_dir).good == COUNT - 2
    prune(limit(0))
    assert target.read_bytes() == b"precious"
    assert left(blobs, filled) in ([], [1])

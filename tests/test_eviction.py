"""Eviction: what was used least recently goes, what is open stays, and it stops in time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from wbfs.cli.sizes import Size, show_size
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Blob
from wbfs.store.blobs import Blobs
from wbfs.store.eviction import Bounds, cached_files, excess, prune
from wbfs.store.inventory import summary, verify

SIZE = 1 << 16
COUNT = 10


def add(blobs: Blobs, number: int) -> Blob:
    """Add a blob whose last use is the older, the smaller its number."""
    content = bytes([number]) * SIZE
    digest = Digest(Algorithm.MD5, hashlib.md5(content).hexdigest())
    blob = Blob(key=f"md5-{digest.hex}", size=SIZE, digest=digest)
    with blobs.create(blob) as partial:
        partial.append(content)
        partial.seal()
    os.utime(blobs.path(blob), (1_000_000 + number, 1_000_000))
    return blob


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path)


@pytest.fixture
def filled(blobs: Blobs) -> list[Blob]:
    return [add(blobs, number) for number in range(COUNT)]


def left(blobs: Blobs, filled: list[Blob]) -> list[int]:
    return [number for number, blob in enumerate(filled) if blobs.path(blob).exists()]


def limit(size: int) -> Bounds:
    return Bounds(limit=size, min_free=None)


def test_the_oldest_go_first(tmp_path: Path, blobs: Blobs, filled: list[Blob]) -> None:
    pruned = prune(tmp_path, limit(4 * SIZE), spare=False)
    assert left(blobs, filled) == [6, 7, 8, 9]
    assert (pruned.removed_files, pruned.removed, pruned.kept) == (6, 6 * SIZE, 4 * SIZE)


def test_nothing_goes_within_bounds(tmp_path: Path, blobs: Blobs, filled: list[Blob]) -> None:
    assert prune(tmp_path, limit(COUNT * SIZE)).removed == 0
    assert prune(tmp_path, Bounds(limit=None, min_free=None)).removed == 0
    assert prune(tmp_path, Bounds(limit=None, min_free=1)).removed == 0
    assert left(blobs, filled) == list(range(COUNT))


def test_some_room_to_spare(tmp_path: Path, blobs: Blobs, filled: list[Blob]) -> None:
    assert prune(tmp_path, limit(8 * SIZE)).kept == 7 * SIZE


def test_use_is_noted_and_what_is_open_stays(
    tmp_path: Path, blobs: Blobs, filled: list[Blob]
) -> None:
    used = blobs.open(filled[0])
    assert used is not None
    os.close(used)
    opened = blobs.open(filled[1])
    assert opened is not None
    prune(tmp_path, limit(2 * SIZE), spare=False)
    assert left(blobs, filled) == [0, 1]
    prune(tmp_path, limit(0), spare=False)
    assert left(blobs, filled) == [1]
    assert os.pread(opened, 3, 0) == b"\1\1\1"
    os.close(opened)
    prune(tmp_path, limit(0), spare=False)
    assert list(cached_files(tmp_path)) == []


def test_the_disks_floor(tmp_path: Path, blobs: Blobs, filled: list[Blob]) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    bounds = Bounds(limit=None, min_free=free * 2)
    assert excess(tmp_path, 0, bounds) == pytest.approx(free, rel=0.1)
    # All that there is does not suffice; that is said, and no error.
    assert prune(tmp_path, bounds).kept == 0


def test_a_cache_that_is_not_there(tmp_path: Path) -> None:
    assert prune(tmp_path / "nothing", limit(0)).removed_files == 0


def test_summary_and_verify(tmp_path: Path, blobs: Blobs, filled: list[Blob]) -> None:
    assert (summary(tmp_path).blobs, summary(tmp_path).blob_bytes) == (COUNT, COUNT * SIZE)
    damaged = blobs.path(filled[3])
    damaged.chmod(0o600)
    damaged.write_bytes(b"x" * SIZE)
    (damaged.parent / "ref-unknown").write_bytes(b"a reference's bytes")
    verified = verify(tmp_path)
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

"""Sealing: only what is whole and right gets its name, and only that is served."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from fetching import unbounded

from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Blob
from wbfs.model.errors import IntegrityError, StoreError
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.partial import PartialBlobs
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.content.sealed import read_fully, read_in_memory

CONTENT = b"some bytes " * 1000


def blob_of(content: bytes) -> Blob:
    digest = Digest(Algorithm.MD5, hashlib.md5(content).hexdigest())
    return Blob(key=f"md5-{digest.hex}", size=len(content), digest=digest)


BLOB = blob_of(CONTENT)


def open_blobs(cache_dir: Path) -> Blobs:
    """Open a cache as a daemon does that has just been started."""
    sdk_cache = SdkCache(cache_dir.parent / "sdk")
    return Blobs(cache_dir, sdk_cache, room=unbounded(cache_dir, sdk_cache), file_mode=0o640)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def blobs(cache_dir: Path) -> Blobs:
    return open_blobs(cache_dir)


@pytest.fixture
def partial(cache_dir: Path, blobs: Blobs) -> PartialBlobs:
    return PartialBlobs(cache_dir, blobs)


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    """Return where the SDK keeps the blob."""
    assert BLOB.digest is not None
    return tmp_path / "sdk/artifacts/obj/md5" / BLOB.digest.hex[:2] / BLOB.digest.hex[2:]


def add(partial: PartialBlobs) -> None:
    with partial.small(BLOB) as small:
        small.write(0, CONTENT)
        small.seal()


def files_below(path: Path) -> list[Path]:
    return [found for found in path.rglob("*") if found.is_file()]


def test_sealed_blob_is_found_and_reads_back(
    cache_dir: Path, blobs: Blobs, partial: PartialBlobs, slot: Path
) -> None:
    assert blobs.open(BLOB) is None
    with partial.small(BLOB) as small:
        small.write(0, CONTENT[:100])
        assert blobs.open(BLOB) is None
        small.write(100, CONTENT[100:])
        small.seal()
    sealed = blobs.open(BLOB)
    assert sealed is not None
    assert os.fstat(sealed.fd).st_mode & 0o777 == 0o640
    buffer = memoryview(bytearray(len(CONTENT)))
    read_fully(sealed.fd, buffer, 0)
    assert buffer == CONTENT
    again = memoryview(bytearray(50))
    assert read_in_memory(sealed.fd, again, 20) == 50
    assert again == CONTENT[20:70]
    with pytest.raises(StoreError, match="shorter"):
        read_fully(sealed.fd, buffer, 1)
    assert files_below(cache_dir / "partial") == []
    # The SDK trusts what it finds: it gets the file once that is safely on disk.
    assert not slot.exists()
    assert blobs.flush() == 1
    assert slot.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"", CONTENT[:-1] + b"!"])
def test_wrong_bytes_get_no_name(
    cache_dir: Path, blobs: Blobs, partial: PartialBlobs, content: bytes
) -> None:
    with partial.small(BLOB) as small:
        small.write(0, content)
        with pytest.raises(IntegrityError, match="expected"):
            small.seal()
    assert blobs.open(BLOB) is None
    assert files_below(cache_dir / "blobs") + files_below(cache_dir / "partial") == []


def test_a_blob_of_another_size_is_not_served(blobs: Blobs, partial: PartialBlobs) -> None:
    path = blobs.path(BLOB)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:10])
    assert blobs.open(BLOB) is None
    with partial.small(BLOB) as small:
        small.write(0, CONTENT)
        small.seal()
    assert path.read_bytes() == CONTENT
    # A manifest may say anything of its size: that takes the file from nobody.
    assert blobs.open(replace(BLOB, size=10)) is None
    assert blobs.open(BLOB) is not None


def test_what_may_be_lost_in_a_power_cut_is_checked_again(
    cache_dir: Path, blobs: Blobs, partial: PartialBlobs
) -> None:
    add(partial)
    # A daemon that is killed here has not seen it reach the disk.
    later = open_blobs(cache_dir)
    assert later.open(BLOB) is None
    assert later.has_unchecked(BLOB)
    assert later.check(BLOB) is not None
    assert later.open(BLOB) is not None
    assert open_blobs(cache_dir).open(BLOB) is None
    assert later.flush() == 1
    assert later.flush() == 0
    assert open_blobs(cache_dir).open(BLOB) is not None


def test_what_was_lost_in_a_power_cut_is_not_served(
    cache_dir: Path, blobs: Blobs, partial: PartialBlobs, slot: Path
) -> None:
    add(partial)
    path = blobs.path(BLOB)
    found = path.stat()
    path.write_bytes(bytes(len(CONTENT)))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    later = open_blobs(cache_dir)
    assert later.has_unchecked(BLOB)
    assert later.check(BLOB) is None
    assert not path.exists()
    assert later.open(BLOB) is None


def test_the_sdks_file_is_served_once_it_was_checked(
    cache_dir: Path, blobs: Blobs, slot: Path
) -> None:
    slot.parent.mkdir(parents=True)
    slot.write_bytes(CONTENT)
    before = slot.stat()
    assert blobs.open(BLOB) is None
    assert blobs.has_unchecked(BLOB)
    assert blobs.check(BLOB) is not None
    sealed = blobs.open(BLOB)
    assert sealed is not None
    assert os.path.samestat(os.fstat(sealed.fd), slot.stat())
    assert open_blobs(cache_dir).open(BLOB) is None
    blobs.flush()
    later = open_blobs(cache_dir)
    assert later.open(BLOB) is not None
    # It is the SDK's file, and stays as it was.
    after = slot.stat()
    assert int(after.st_mtime) == int(before.st_mtime)
    assert after.st_mode == before.st_mode
    # Whoever writes to it takes our mark away.
    slot.write_bytes(CONTENT[::-1])
    for daemon in (blobs, later):
        assert daemon.open(BLOB) is None
    assert blobs.check(BLOB) is None


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"!"])
def test_the_sdks_damaged_file_is_not_served(blobs: Blobs, slot: Path, content: bytes) -> None:
    slot.parent.mkdir(parents=True)
    slot.write_bytes(content)
    assert blobs.has_unchecked(BLOB) is (len(content) == len(CONTENT))
    assert blobs.check(BLOB) is None
    assert blobs.open(BLOB) is None


def test_abandoned_downloads_are_removed_and_running_ones_are_not(
    cache_dir: Path, blobs: Blobs, partial: PartialBlobs
) -> None:
    (cache_dir / "partial").mkdir(parents=True)
    (cache_dir / "partial" / "md5-0.abandoned").write_bytes(b"left by a killed daemon")
    (cache_dir / "partial" / "md5-1.map").write_bytes(b"a map of nothing")
    with partial.small(BLOB) as small:
        small.write(0, CONTENT)
        assert partial.remove_abandoned() == 1
        small.seal()
    assert blobs.open(BLOB) is not None
    assert files_below(cache_dir / "partial") == []

"""Sealing: only what is whole and right gets its name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Blob
from wbfs.model.errors import IntegrityError, StoreError
from wbfs.store.blobs import Blobs, read_fully, read_in_memory

CONTENT = b"some bytes " * 1000


def blob_of(content: bytes) -> Blob:
    digest = Digest(Algorithm.MD5, hashlib.md5(content).hexdigest())
    return Blob(key=f"md5-{digest.hex}", size=len(content), digest=digest)


def files_below(path: Path) -> list[Path]:
    return [found for found in path.rglob("*") if found.is_file()]


def test_sealed_blob_is_found_and_reads_back(tmp_path: Path) -> None:
    blobs, blob = Blobs(tmp_path), blob_of(CONTENT)
    assert blobs.open(blob) is None
    with blobs.create(blob) as partial:
        partial.append(CONTENT[:100])
        assert blobs.open(blob) is None
        partial.append(memoryview(CONTENT)[100:])
        partial.seal()
    fd = blobs.open(blob)
    assert fd is not None
    assert os.fstat(fd).st_mode & 0o777 == 0o400
    buffer = memoryview(bytearray(len(CONTENT)))
    read_fully(fd, buffer, 0)
    assert buffer == CONTENT
    again = memoryview(bytearray(50))
    assert read_in_memory(fd, again, 20) == 50
    assert again == CONTENT[20:70]
    with pytest.raises(StoreError, match="shorter"):
        read_fully(fd, buffer, 1)
    os.close(fd)
    assert files_below(tmp_path / "partial") == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"", CONTENT[:-1] + b"!"])
def test_wrong_bytes_get_no_name(tmp_path: Path, content: bytes) -> None:
    blobs, blob = Blobs(tmp_path), blob_of(CONTENT)
    with blobs.create(blob) as partial:
        partial.append(content)
        with pytest.raises(IntegrityError, match="expected"):
            partial.seal()
    assert blobs.open(blob) is None
    assert files_below(tmp_path) == []


def test_damaged_blob_is_dropped(tmp_path: Path) -> None:
    blobs, blob = Blobs(tmp_path), blob_of(CONTENT)
    path = blobs.path(blob)
    path.parent.mkdir()
    path.write_bytes(CONTENT[:10])
    assert blobs.open(blob) is None
    assert not path.exists()


def test_abandoned_downloads_are_removed_and_running_ones_are_not(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    (tmp_path / "partial" / "md5-0.abandoned").write_bytes(b"left by a killed daemon")
    with blobs.create(blob_of(CONTENT)) as partial:
        partial.append(CONTENT)
        assert blobs.remove_abandoned() == 1
        partial.seal()
    assert blobs.open(blob_of(CONTENT)) is not None


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match="can't make the cache folder"):
        Blobs(tmp_path / "cache")

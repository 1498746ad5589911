"""Large partial blobs: what they hold outlives a daemon; a power cut leaves what is safe."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

import pytest
from fetching import unbounded

import wbfs.store.content.large_blob
from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Blob
from wbfs.model.errors import IntegrityError, StoreError
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.large_blob import LargeBlob
from wbfs.store.content.partial import PartialBlobs
from wbfs.store.content.sdk_cache import SdkCache

CONTENT = os.urandom(3 << 20)
DIGEST = Digest(Algorithm.MD5, hashlib.md5(CONTENT).hexdigest())
BLOB = Blob(key=f"md5-{DIGEST.hex}", size=len(CONTENT), digest=DIGEST)
MIB = 1 << 20


def new_blobs(cache_dir: Path) -> Blobs:
    sdk_cache = SdkCache(cache_dir / "sdk")
    return Blobs(cache_dir, sdk_cache, room=unbounded(cache_dir, sdk_cache), file_mode=0o600)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return new_blobs(tmp_path)


@pytest.fixture
def partial(tmp_path: Path, blobs: Blobs) -> PartialBlobs:
    return PartialBlobs(tmp_path, blobs)


def reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wbfs.store.content.large_blob, "_boot_id", lambda: "another boot")


def read(large: LargeBlob, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    large.read(memoryview(buffer), offset)
    return bytes(buffer)


def test_written_in_any_order_and_sealed(blobs: Blobs, partial: PartialBlobs) -> None:
    large = partial.large(BLOB)
    assert large.held.total == 0
    for start in (MIB, 2 * MIB, 0):
        large.write(start, CONTENT[start : start + MIB])
    large.save([(0, len(CONTENT))])
    sealed = large.seal()
    assert os.pread(sealed.fd, len(CONTENT), 0) == CONTENT
    assert read(large, 0, len(CONTENT)) == CONTENT
    assert blobs.open(BLOB) is not None
    assert list(blobs.path(BLOB).parents[2].joinpath("partial").iterdir()) == []


def test_what_another_daemon_has_sealed_is_not_gone_on_with(
    blobs: Blobs, partial: PartialBlobs, tmp_path: Path
) -> None:
    first, second = partial.large(BLOB), partial.large(BLOB)
    first.write(0, CONTENT[:MIB])
    first.save([(0, MIB)])
    assert partial.remove_abandoned() == 0
    second.write(0, CONTENT)
    second.seal()
    # Somebody is about to read it.
    assert partial.remove_abandoned() == 0
    first.close()
    assert partial.remove_abandoned() == 1
    assert list((tmp_path / "partial").iterdir()) == []
    assert blobs.open(BLOB) is not None


def test_wrong_bytes_are_not_sealed_and_can_be_dropped(blobs: Blobs, partial: PartialBlobs) -> None:
    large = partial.large(BLOB)
    large.write(0, CONTENT[:-1] + b"!")
    large.save([(0, len(CONTENT))])
    with pytest.raises(IntegrityError, match="expected"):
        large.seal()
    large.discard()
    again = partial.large(BLOB)
    assert again.generation != large.generation
    assert again.held.total == 0
    assert read(again, 0, 10) == bytes(10)
    assert blobs.open(BLOB) is None


def test_what_is_closed_refuses_to_be_used(partial: PartialBlobs, tmp_path: Path) -> None:
    large = partial.large(BLOB)
    large.close()
    # The number that its file had is another's by now.
    innocent = os.open(tmp_path / "innocent", os.O_RDWR | os.O_CREAT)
    for use in (
        lambda: large.write(0, CONTENT),
        lambda: read(large, 0, 10),
        lambda: large.save([(0, MIB)]),
        lambda: large.flush([(0, MIB)]),
        lambda: large.check_ahead(MIB),
        large.seal,
        large.discard,
    ):
        with pytest.raises(StoreError, match="closed"):
            use()
    large.close()
    assert os.fstat(innocent).st_size == 0
    os.close(innocent)


def test_a_map_that_is_late_is_not_written(
    partial: PartialBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = partial.large(BLOB)
    large.write(0, CONTENT[:MIB])
    again: list[LargeBlob] = []

    def slow(fd: int) -> None:
        # While the disk takes its time, the bytes turn out to be wrong, and others come.
        large.discard()
        again.append(partial.large(BLOB))

    monkeypatch.setattr("wbfs.store.content.large_blob.os.fdatasync", slow)
    large.flush([(0, MIB)])
    again.pop().close()
    assert partial.large(BLOB).held.total == 0


@pytest.mark.parametrize("has_xattrs", [True, False])
def test_the_map_of_another_file(
    partial: PartialBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_xattrs: bool
) -> None:
    if not has_xattrs:

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOTSUP, "no such thing")

        for name in ("setxattr", "getxattr", "removexattr"):
            monkeypatch.setattr(f"wbfs.store.content.large_blob.os.{name}", refuse)
    large = partial.large(BLOB)
    large.write(0, CONTENT[:MIB])
    large.save([(0, MIB)])
    file, map_file = tmp_path / "partial" / BLOB.key, tmp_path / "partial" / f"{BLOB.key}.map"
    # As whoever evicts it, and is killed before the map has gone.
    kept = map_file.read_bytes()
    file.unlink()
    other = partial.large(BLOB)
    large.save([(0, MIB)])
    other.close()
    map_file.write_bytes(kept)
    assert partial.large(BLOB).held.total == 0
    map_file.write_bytes(kept)
    large.close()


def test_a_file_that_was_removed_is_sealed_without_a_name(
    blobs: Blobs, partial: PartialBlobs, tmp_path: Path
) -> None:
    large = partial.large(BLOB)
    large.write(0, CONTENT)
    shutil.rmtree(tmp_path / "partial")
    # Another daemon begins anew meanwhile.
    other = partial.large(BLOB)
    sealed = large.seal()
    assert os.pread(sealed.fd, len(CONTENT), 0) == CONTENT
    assert blobs.open(BLOB) is None
    other.write(0, CONTENT)
    other.seal()
    assert blobs.open(BLOB) is not None


def test_a_later_daemon_goes_on(partial: PartialBlobs) -> None:
    large = partial.large(BLOB)
    large.write(MIB, CONTENT[MIB : 2 * MIB])
    large.save([(MIB, 2 * MIB)])
    del large
    again = partial.large(BLOB)
    assert list(again.held) == [(MIB, 2 * MIB)]
    assert read(again, MIB, MIB) == CONTENT[MIB : 2 * MIB]


def test_after_a_reboot_only_what_is_safe_is_held(
    partial: PartialBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = partial.large(BLOB)
    large.write(0, CONTENT[:MIB])
    large.flush([(0, MIB)])
    large.write(MIB, CONTENT[MIB : 2 * MIB])
    large.save([(0, 2 * MIB)])
    del large
    reboot(monkeypatch)
    large = partial.large(BLOB)
    assert list(large.held) == [(0, MIB)]
    # What comes now is no safer than before.
    large.save([(0, 3 * MIB)])
    del large
    monkeypatch.undo()
    assert list(partial.large(BLOB).held) == [(0, MIB)]


@pytest.mark.parametrize("contents", [b"", b'{"boot": "', b"[]", b'{"safe": 3, "held": 4}'])
def test_a_torn_map_holds_nothing(partial: PartialBlobs, tmp_path: Path, contents: bytes) -> None:
    large = partial.large(BLOB)
    large.write(0, CONTENT[:MIB])
    large.save([(0, MIB)])
    del large
    (tmp_path / "partial" / f"{BLOB.key}.map").write_bytes(contents)
    large = partial.large(BLOB)
    assert large.held.total == 0
    assert read(large, 0, 10) == bytes(10)


def test_two_daemons_do_not_share_a_file_that_is_being_written(
    blobs: Blobs, partial: PartialBlobs, tmp_path: Path
) -> None:
    first, second = partial.large(BLOB), partial.large(BLOB)
    first.write(0, CONTENT)
    second.write(0, CONTENT[:MIB])
    second.save([(0, MIB)])
    assert second.held.total == 0
    second.write(MIB, CONTENT[MIB:])
    second.seal()
    first.seal()
    assert blobs.open(BLOB) is not None
    del first, second
    # A third one that gives up leaves nothing.
    keeper, other = partial.large(BLOB), partial.large(BLOB)
    other.write(0, CONTENT[:MIB])
    del other
    assert len(list((tmp_path / "partial").iterdir())) == 1
    del keeper


def test_nobody_goes_on_with_a_file_that_is_sealed(
    blobs: Blobs, partial: PartialBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    others = PartialBlobs(tmp_path, new_blobs(tmp_path))
    large = partial.large(BLOB)
    large.write(0, CONTENT)
    large.save([(0, len(CONTENT))])

    def open_once_unlocked(fd: int, kind: int) -> None:
        flock(fd, kind)
        if kind == fcntl.LOCK_UN:
            monkeypatch.undo()
            others.large(BLOB).close()

    monkeypatch.setattr("wbfs.store.content.blobs.fcntl.flock", open_once_unlocked)
    large.seal()
    assert fcntl.flock is flock
    assert blobs.path(BLOB).read_bytes() == CONTENT


def test_the_map_of_a_file_that_is_gone(partial: PartialBlobs, tmp_path: Path) -> None:
    large = partial.large(BLOB)
    large.write(0, CONTENT)
    large.save([(0, len(CONTENT))])
    large.close()
    (tmp_path / "partial" / BLOB.key).unlink()
    # A daemon that is killed before it notes anything.
    partial.large(BLOB).close()
    again = partial.large(BLOB)
    assert again.held.total == 0

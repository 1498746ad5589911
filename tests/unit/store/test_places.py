"""What versions list is kept beside the cache where that has no room, and not without bound."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
from pathlib import Path

import pytest
from fetching import new_manifests
from tables import add_table

from wbfs.model.entries import Entry
from wbfs.model.errors import StoreFull
from wbfs.store.bounds.eviction import Bounds
from wbfs.store.bounds.room import Room
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.known import places
from wbfs.store.known.manifests import Manifests, remove_abandoned_tables
from wbfs.store.known.places import Elsewhere, Scratch

ENTRY = Entry(path="file", size=1, digest=None, reference=None, birth_artifact_id="")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where things are put that are not in the cache."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(places, "MEMORY_FOLDER", tmp_path / "nothing")
    return folder


def put(elsewhere: Elsewhere, name: str, size: int) -> Path:
    fd, draft = elsewhere.create(name)
    os.write(fd, bytes(size))
    elsewhere.take(size)
    os.close(fd)
    return draft.rename(draft.with_name(f"{name}.sqlite"))


def test_the_least_recently_used_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ELSEWHERE_BYTES", 1000)
    elsewhere = Elsewhere()
    paths = [put(elsewhere, f"{number}", 400) for number in range(2)]
    os.utime(paths[0], ns=(2, 2))
    os.utime(paths[1], ns=(1, 1))
    paths.append(put(elsewhere, "2", 400))
    assert [path.exists() for path in paths] == [True, False, True]
    with pytest.raises(StoreFull, match="no room for the manifest"):
        elsewhere.reserve(1001)


def test_it_ends_with_its_process(temporary: Path) -> None:
    elsewhere = Elsewhere()
    put(elsewhere, "table", 10)
    other = Elsewhere()
    put(other, "table", 10)
    assert len(list(temporary.iterdir())) == 2
    del elsewhere, other
    gc.collect()
    assert list(temporary.iterdir()) == []
    # One that was killed.
    (temporary / "wbfs-manifests-killed").mkdir()
    (temporary / "wbfs-manifests-killed" / "table.sqlite").touch()
    elsewhere = Elsewhere()
    path = put(elsewhere, "table", 10)
    assert list(temporary.iterdir()) == [path.parent]


def test_a_table_that_the_cache_has_no_room_for(tmp_path: Path) -> None:
    room = Room(tmp_path / "cache", SdkCache(tmp_path / "sdk"), Bounds(limit=100, min_free=None))
    manifests = Manifests(tmp_path / "cache", "server", room)
    with pytest.raises(StoreFull):
        add_table(manifests, "id", [ENTRY])
    manifests.spill()
    add_table(manifests, "id", [ENTRY]).close()
    table = manifests.open("id")
    assert table is not None
    assert table.entry("file") is not None
    table.close()
    assert not list((tmp_path / "cache").rglob("*.sqlite"))


def test_what_is_scratch_counts_until_it_is_closed(tmp_path: Path) -> None:
    room = Room(tmp_path / "cache", SdkCache(tmp_path / "sdk"), Bounds(limit=1000, min_free=None))
    manifests = Manifests(tmp_path / "cache", "server", room)
    with manifests.scratch() as scratch:
        assert isinstance(scratch, Scratch)
        scratch.write(bytes(400))
        assert room.used == 800
        with pytest.raises(StoreFull):
            scratch.write(bytes(400))
    assert room.used == 0


def test_a_disk_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = new_manifests(tmp_path, "server")

    def refuse(folder: Path, *, prefix: str, suffix: str) -> tuple[int, Path]:
        if folder.is_relative_to(tmp_path / "manifests"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return create(folder, prefix=prefix, suffix=suffix)

    create = places.temporary_file
    monkeypatch.setattr(places, "temporary_file", refuse)
    table = add_table(manifests, "id", [ENTRY])
    assert table.entry("file") is not None
    table.close()


def test_what_killed_daemons_leave_goes(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "manifests" / "server"
    folder.mkdir(parents=True)
    names = ["old.sqlite.1.tmp", "locked.sqlite.2.tmp", "new.sqlite.3.tmp", "table.sqlite"]
    for name in names:
        (folder / name).touch()
        if name != names[2]:
            os.utime(folder / name, (0, 0))
    with (folder / names[1]).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        remove_abandoned_tables(tmp_path / "cache")
    assert sorted(os.listdir(folder)) == sorted(names[1:])

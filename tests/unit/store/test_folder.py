"""The cache directory is believed only where nobody else can have written to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wbfs.model.errors import UsageError
from wbfs.store.folder import (
    check_cache,
    create_file,
    disk_of,
    open_file,
    prepare_cache,
    temporary_file,
)

STRANGER = 12345


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    prepare_cache(tmp_path / "cache")
    return tmp_path / "cache"


def own(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, STRANGER, -1, follow_symlinks=False)


@pytest.mark.parametrize("folder", ["", "blobs", "blobs/ab", "partial", "manifests", "manifests/s"])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_folder_that_others_may_write(cache_dir: Path, folder: str, mode: int) -> None:
    path = cache_dir / folder
    path.mkdir(exist_ok=True)
    check_cache(cache_dir)
    path.chmod(mode)
    with pytest.raises(UsageError, match=rf"others may write .*{path} .*chmod 700"):
        check_cache(cache_dir)


@pytest.mark.parametrize("folder", ["", "blobs", "blobs/ab", "partial", "manifests/s"])
def test_a_folder_of_somebody_elses(cache_dir: Path, folder: str) -> None:
    path = cache_dir / folder
    path.mkdir(exist_ok=True)
    own(path)
    with pytest.raises(UsageError, match=f"{path} belongs to uid {STRANGER}"):
        check_cache(cache_dir)


@pytest.mark.parametrize("folder", ["blobs", "blobs/ab", "partial", "manifests", "manifests/s"])
def test_a_link_in_a_folders_place(cache_dir: Path, tmp_path: Path, folder: str) -> None:
    path = cache_dir / folder
    if path.exists():
        path.rmdir()
    path.symlink_to(tmp_path)
    with pytest.raises(UsageError, match=f"{path} is none"):
        check_cache(cache_dir)


def test_a_place_that_everybody_may_rename_things_in(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for cache_dir in (place / "cache", place / "deeper" / "cache"):
        place.chmod(0o777)
        with pytest.raises(UsageError, match=f"rename what is in {place}.*chmod o-w"):
            prepare_cache(cache_dir)
        place.chmod(0o1777)
        prepare_cache(cache_dir)


def test_a_link_to_the_cache(cache_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(cache_dir)
    check_cache(tmp_path / "link")
    cache_dir.chmod(0o777)
    with pytest.raises(UsageError, match="others may write"):
        check_cache(tmp_path / "link")


def test_no_cache_is_no_trouble_and_a_file_is(tmp_path: Path) -> None:
    check_cache(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UsageError, match="is none"):
        prepare_cache(tmp_path / "file")


def test_it_is_made_for_its_user_only(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        prepare_cache(tmp_path / "cache")
    finally:
        os.umask(umask)
    for path in (tmp_path / "cache", *(tmp_path / "cache").iterdir()):
        assert path.stat().st_mode & 0o7777 == 0o700


def plant_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def plant_pipe(path: Path, target: Path) -> None:
    os.mkfifo(path)


def plant_folder(path: Path, target: Path) -> None:
    path.mkdir()


def plant_socket(path: Path, target: Path) -> None:
    os.mknod(path, 0o140600)


def plant_file(path: Path, target: Path) -> None:
    path.write_bytes(b"planted")
    own(path)


def plant_hard_link(path: Path, target: Path) -> None:
    own(target)
    path.hardlink_to(target)


Plant = Callable[[Path, Path], None]
PLANTED = [plant_link, plant_pipe, plant_folder, plant_socket, plant_file, plant_hard_link]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a file that nobody may touch."""
    path = tmp_path / "target"
    path.write_bytes(b"precious")
    return path


@pytest.mark.parametrize("plant", PLANTED)
def test_what_was_planted_is_not_there(cache_dir: Path, target: Path, plant: Plant) -> None:
    plant(cache_dir / "planted", target)
    with pytest.raises(FileNotFoundError, match="no file that wbfs wrote"):
        open_file(cache_dir / "planted")
    fd = create_file(cache_dir / "planted")
    os.write(fd, b"ours")
    os.ftruncate(fd, 0)
    os.close(fd)
    assert target.read_bytes() == b"precious"
    os.close(open_file(cache_dir / "planted"))


def test_a_folder_with_something_in_it_stays(cache_dir: Path) -> None:
    (cache_dir / "planted" / "more").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        create_file(cache_dir / "planted")


def test_folders_that_are_gone_are_made_again(cache_dir: Path) -> None:
    shutil.rmtree(cache_dir)
    assert disk_of(cache_dir / "blobs").f_frsize > 0
    os.close(create_file(cache_dir / "partial" / "one"))
    shutil.rmtree(cache_dir)
    fd, path = temporary_file(cache_dir / "partial", prefix="two.", suffix=".tmp")
    os.close(fd)
    assert path.name.startswith("two.")
    assert path.name.endswith(".tmp")
    assert cache_dir.stat().st_mode & 0o777 == 0o700
    check_cache(cache_dir)

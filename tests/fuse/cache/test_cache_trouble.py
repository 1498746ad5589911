"""Whatever happens to the cache, what is mounted can be read: past the cache, if need be."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import WBFS, Mount, check, run, wait_until
from stand_in import StandIn

MIB = 1 << 20
SMALL_FILES = 24
SMALL = 150_000
LARGE = 12 * MIB
VERSIONS = 3
DELETIONS = 20
LOG = f"""
import random
import wandb
with wandb.init(project="troubled") as run:
    for version in range({VERSIONS}):
        artifact = wandb.Artifact("files", type="dataset")
        for number in range({SMALL_FILES}):
            with artifact.new_file(f"{{number:02}}.bin", mode="wb") as file:
                file.write(random.Random(1000 * version + number).randbytes({SMALL}))
        with artifact.new_file("large.bin", mode="wb") as file:
            file.write(random.Random(f"large {{version}}").randbytes({LARGE}))
        run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="session")
def versions(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the paths of versions of which no two have a file in common."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("troubled"))
    return [Path(entity, "troubled", "files", f"v{number}") for number in range(VERSIONS)]


def read_small(mount: Mount, versions: list[Path], version: int) -> None:
    """List a version, and read its small files."""
    folder = mount.path / versions[version]
    assert len(list(folder.iterdir())) == SMALL_FILES + 1
    for number in range(SMALL_FILES):
        content = (folder / f"{number:02}.bin").read_bytes()
        assert content == random.Random(1000 * version + number).randbytes(SMALL)


def read_all(mount: Mount, versions: list[Path], version: int) -> None:
    """List a version, and read all of it."""
    read_small(mount, versions, version)
    content = (mount.path / versions[version] / "large.bin").read_bytes()
    assert content == random.Random(f"large {version}").randbytes(LARGE)


def read_until_cached(mount: Mount, version: Path) -> None:
    """Read one file after the other that was not read before, until they are cached."""
    for path in sorted((mount.path / version).iterdir()):
        path.read_bytes()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: state(mount) == "caching", timeout_s=1, what="it is cached")
            return
    raise AssertionError("what is read is not cached again")


def cached(mount: Mount) -> int:
    """Return how many blobs the cache has."""
    return sum(path.is_file() for path in (mount.cache_dir / "blobs").rglob("*"))


def state(mount: Mount) -> str:
    found: str = mount.status()["cache"]["state"]
    return found


@pytest.fixture
def disk(small_disk: Callable[[str], Path]) -> Path:
    return small_disk("40m")


@pytest.fixture
def read_only(disk: Path) -> Iterator[Callable[[], None]]:
    """Return what makes the disk read-only."""

    def make() -> None:
        check("mount", "-o", "remount,ro", disk)

    yield make
    check("mount", "-o", "remount,rw", disk)


REMOVED = ["", "blobs", "partial", "manifests", "catalog.sqlite", "catalog.lock", "used.count"]


def delete(folder: Path) -> None:
    """Remove a folder of a cache, once more if the daemon puts a file in meanwhile."""
    for _ in range(DELETIONS):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
    pytest.fail(f"{folder} can't be removed: files come back")


@pytest.mark.promises("8.3")
def test_a_cache_that_is_deleted_is_made_again(mounter: Mounter, versions: list[Path]) -> None:
    mount = mounter()
    read_small(mount, versions, 0)
    opened = (mount.path / versions[0] / "large.bin").open("rb")
    opened.read(4096)
    for name in REMOVED:
        path = mount.cache_dir / name
        if path.is_dir():
            delete(path)
        else:
            path.unlink(missing_ok=True)
        for version in range(2):
            read_small(mount, versions, version)
        os.statvfs(mount.path)
        check("df", mount.path)
        assert (mount.path / versions[0].parent).exists()
        assert mount.cache_dir.stat().st_mode & 0o777 == 0o700
    delete(mount.cache_dir)
    opened.seek(0)
    assert opened.read() == random.Random("large 0").randbytes(LARGE)
    opened.close()
    read_all(mount, versions, 2)
    assert mount.errors() == []
    assert cached(mount) >= SMALL_FILES
    mount.umount()
    # It is a cache like any other.
    again = mounter()
    read_all(again, versions, 2)
    assert again.status()["fetched"]["fetched_bytes"] == 0


def flip_a_bit_of_each_name(content: bytes) -> bytes:
    return content.replace(b".bin", b".bio")


def overwrite_pages(content: bytes) -> bytes:
    return content[:4096] + b"\xff" * (len(content) - 4096)


@pytest.mark.promises("8.6")
@pytest.mark.parametrize("damage", [flip_a_bit_of_each_name, overwrite_pages])
def test_damaged_manifests_are_fetched_again(
    mounter: Mounter, versions: list[Path], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    mount = mounter()
    read_small(mount, versions, 0)
    mount.umount()
    [table] = (tmp_path / "cache/manifests").rglob("*.sqlite")
    table.write_bytes(damage(table.read_bytes()))
    mount = mounter()
    read_small(mount, versions, 0)
    assert f"can't read the cached manifest {table}: it is damaged" in mount.log()


def test_a_cache_that_cannot_be_made_again(mounter: Mounter, versions: list[Path]) -> None:
    mount = mounter()
    read_small(mount, versions, 0)
    delete(mount.cache_dir)
    mount.cache_dir.write_text("no folder")
    read_all(mount, versions, 1)
    os.statvfs(mount.path)
    assert mount.errors() == []
    assert state(mount) == "failing"
    mount.cache_dir.unlink()
    read_until_cached(mount, versions[2])


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte; return with what."""
    path = disk / "somebody else's"
    with path.open("wb", buffering=0) as file:
        size = MIB
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return path


def test_a_disk_that_others_fill(mounter: Mounter, versions: list[Path], disk: Path) -> None:
    mount = mounter(cache=disk / "cache", options=["--min-free", "0"])
    assert state(mount) == "caching"
    assert mount.status()["cache"]["trouble"] is None
    filling = fill(disk)
    # Versions that were never seen before.
    for version in range(2):
        read_all(mount, versions, version)
    os.statvfs(mount.path)
    assert mount.errors() == []
    assert state(mount) == "full"
    assert "no room" in mount.status()["cache"]["trouble"]
    assert mount.log().count("files are read past the cache") == 1
    filling.unlink()
    read_until_cached(mount, versions[2])
    assert cached(mount) >= 1
    assert mount.log().count("is used again") == 1


def test_ours_makes_room_first(mounter: Mounter, versions: list[Path], disk: Path) -> None:
    mount = mounter(cache=disk / "cache", options=["--min-free", "0"])
    read_small(mount, versions, 0)
    wait_until(lambda: cached(mount) >= SMALL_FILES, what="all is cached")
    fill(disk)
    read_small(mount, versions, 1)
    assert mount.errors() == []
    assert state(mount) == "caching"
    assert "from the cache" in mount.log()
    assert cached(mount) > 0


def test_no_inodes_left(mounter: Mounter, versions: list[Path], tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "few files"
    disk.mkdir()
    check("mount", "-t", "tmpfs", "-o", "size=60m,nr_inodes=100", "none", disk)
    try:
        mount = mounter(cache=disk / "cache", options=["--min-free", "0"])
        read_small(mount, versions, 0)
        number = 0
        while True:
            try:
                (disk / f"{number}").touch()
            except OSError:
                break
            number += 1
        for version in range(VERSIONS):
            read_all(mount, versions, version)
        assert mount.errors() == []
        assert os.statvfs(mount.path).f_blocks > 0
        mount.take_down()
    finally:
        check("umount", "-l", disk)


def test_a_disk_that_becomes_read_only(
    mounter: Mounter, versions: list[Path], disk: Path, read_only: Callable[[], None]
) -> None:
    mount = mounter(cache=disk / "cache", options=["--min-free", "0"])
    read_small(mount, versions, 0)
    wait_until(lambda: cached(mount) >= SMALL_FILES, what="all is cached")
    read_only()
    for version in range(2):
        read_all(mount, versions, version)
    assert mount.errors() == []
    assert state(mount) == "read-only"
    assert mount.log().count("files are read past the cache") == 1
    check("mount", "-o", "remount,rw", disk)
    read_until_cached(mount, versions[2])


@pytest.mark.promises("8.3")
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_mount_on_a_read_only_cache(
    mounter: Mounter,
    versions: list[Path],
    disk: Path,
    read_only: Callable[[], None],
    stand_in: StandIn,
    is_empty: bool,
) -> None:
    cache_dir = disk / "cache"
    if not is_empty:
        first = mounter(cache=cache_dir, options=["--min-free", "0"])
        read_all(first, versions, 0)
        wait_until(lambda: cached(first) > SMALL_FILES, what="all is cached")
        first.umount()
    read_only()
    mount = mounter(cache=cache_dir)
    wait_until(lambda: state(mount) == "read-only", what="it is noticed")
    assert "Read-only file system" in mount.status()["cache"]["trouble"]
    assert "Read-only file system" in mount.log()
    before = mount.status()["fetched"]["fetched_bytes"]
    read_all(mount, versions, 0)
    if not is_empty:
        assert mount.status()["fetched"]["fetched_bytes"] == before
    read_all(mount, versions, 1)
    os.statvfs(mount.path)
    assert mount.errors() == []
    info = run(*WBFS, "cache", "--cache-dir", cache_dir, "info")
    assert (info.returncode == 0) is not is_empty


@pytest.mark.promises("8.4")
@pytest.mark.parametrize("command", ["mount", "get", "prefetch", "info", "list", "clear", "verify"])
def test_a_cache_that_others_may_write_is_refused(
    stand_in: StandIn, versions: list[Path], tmp_path: Path, command: str
) -> None:
    cache_dir = tmp_path / "cache"
    cache_dir.mkdir()
    cache_dir.chmod(0o777)
    name = "{}/{}/{}:{}".format(*versions[0].parts)
    (tmp_path / "mount").mkdir()
    words: list[str | Path] = {
        "mount": ["mount", "--cache-dir", cache_dir, tmp_path / "mount"],
        "get": ["get", "--cache-dir", cache_dir, name, "--root", tmp_path / "got"],
        "prefetch": ["prefetch", "--cache-dir", cache_dir, name],
    }.get(command, ["cache", "--cache-dir", cache_dir, command])
    home = tmp_path / "home"
    home.mkdir()
    done = run(*WBFS, *words, env=stand_in.env(home))
    assert done.returncode != 0
    assert f"others may write to the cache folder {cache_dir}" in done.stderr
    assert f"chmod 700 {cache_dir}" in done.stderr
    assert list(cache_dir.iterdir()) == []


def test_what_is_planted_is_neither_served_nor_written_to(
    mounter: Mounter, versions: list[Path], tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    mount = mounter()
    read_all(mount, versions, 0)
    wait_until(lambda: cached(mount) > SMALL_FILES, what="all is cached")
    blobs = [path for path in (mount.cache_dir / "blobs").rglob("*-*") if path.is_file()]
    mount.umount()
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    names = [blob.name for blob in blobs]
    for number, blob in enumerate(blobs):
        size = blob.stat().st_size
        blob.unlink()
        if number % 4 == 0:
            blob.write_bytes(bytes(size))
            os.chown(blob, 12345, 12345)
            os.utime(blob, ns=(10**18, 10**18 + 1))
        elif number % 4 == 1:
            blob.symlink_to(target)
        elif number % 4 == 2:
            os.mkfifo(blob)
        else:
            blob.mkdir()
    # The SDK's cache has them too, and would be believed after a check.
    shutil.rmtree(Path(mount.env["HOME"]) / ".cache/wandb", ignore_errors=True)
    for name in names:
        (mount.cache_dir / "partial" / name).symlink_to(target)
    again = mounter()
    read_all(again, versions, 0)
    assert again.errors() == []
    assert target.read_bytes() == b"precious"
    # A large file is sealed after its last byte was read.
    wait_until(
        lambda: all(blob.is_file() and not blob.is_symlink() for blob in blobs),
        what="all is cached again",
    )

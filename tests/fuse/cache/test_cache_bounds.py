"""The cache's bounds hold at every moment, whatever is read, and however fast."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Mounter
from disk import taken
from mounts import WBFS, check, wait_until
from stand_in import StandIn

MIB = 1 << 20
LARGE = 100 * MIB
SMALL_FILES = 150
SMALL = 100_000
LIMIT = 30_000_000
SLACK = MIB
"""A piece of a file that is in flight."""
LOG = f"""
import random
import wandb
with wandb.init(project="bounded") as run:
    artifact = wandb.Artifact("files", type="dataset")
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(random.Random(0).randbytes({LARGE}))
    for number in range({SMALL_FILES}):
        with artifact.new_file(f"small/{{number:03}}.bin", mode="wb") as file:
            file.write(random.Random(number).randbytes({SMALL}))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="session")
def version(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a version that is larger than the cache may be."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("bounded"))
    return Path(entity, "bounded", "files", "v0")


class Watch:
    """Samples something all the time."""

    def __init__(self, sample: Callable[[], int]) -> None:
        self.most = 0
        self.samples = 0
        self._sample = sample
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stopped.wait(0.005):
            self.most = max(self.most, self._sample())
            self.samples += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._thread.join()


def read_large(folder: Path) -> None:
    with (folder / "large.bin").open("rb") as file:
        assert hashlib.file_digest(file, "md5").digest() == LARGE_DIGEST


LARGE_DIGEST = hashlib.md5(random.Random(0).randbytes(LARGE)).digest()


def read_small(folder: Path) -> None:
    for number in range(SMALL_FILES):
        content = (folder / f"small/{number:03}.bin").read_bytes()
        assert content == random.Random(number).randbytes(SMALL)


@pytest.mark.promises("8.1")
def test_a_limit_holds_at_every_moment(mounter: Mounter, version: Path) -> None:
    mount = mounter(options=["--cache-size", str(LIMIT)])
    folder = mount.path / version
    watch = Watch(lambda: taken(mount.cache_dir))
    with watch.watching():
        readers = [
            threading.Thread(target=read_small, args=(folder,)),
            threading.Thread(target=read_large, args=(folder,)),
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        read_small(folder)
    assert watch.samples > 20
    assert 5 * MIB < watch.most <= LIMIT + SLACK
    assert mount.errors() == []


@pytest.mark.promises("8.1")
def test_a_floor_holds_at_every_moment(
    mounter: Mounter, version: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("60m")
    floor = 20 * MIB

    def lacking() -> int:
        found = os.statvfs(disk)
        return floor - found.f_bavail * found.f_frsize

    mount = mounter(cache=disk / "cache", options=["--min-free", str(floor)])
    watch = Watch(lacking)
    with watch.watching():
        read_large(mount.path / version)
        read_small(mount.path / version)
    assert watch.samples > 20
    assert watch.most <= SLACK
    assert mount.errors() == []


@pytest.mark.parametrize("is_prefetch", [True, False])
def test_commands_keep_the_limit(
    mounter: Mounter, version: Path, tmp_path: Path, is_prefetch: bool
) -> None:
    mount = mounter()
    cache_dir = tmp_path / "other cache"
    # A prefetch of more than there is room for fetches nothing at all.
    limit = 20_000_000 if is_prefetch else 8_000_000
    options = ["--cache-dir", str(cache_dir), "--cache-size", str(limit)]
    name = "{}/{}/{}:{}".format(*version.parts)
    watch = Watch(lambda: taken(cache_dir))
    env = mount.env
    with watch.watching():
        if is_prefetch:
            check(*WBFS, "prefetch", *options, f"{name}/small", env=env)
        else:
            root = ["--root", str(tmp_path / "got")]
            check(*WBFS, "get", *options, "--path-prefix", "small/", *root, name, env=env)
    assert 5 * MIB < watch.most <= limit + SLACK


@pytest.mark.promises("8.1")
def test_two_mounts_keep_one_limit(mounter: Mounter, version: Path) -> None:
    mounts = [mounter(options=["--cache-size", "5MB"]) for _ in range(2)]
    watch = Watch(lambda: taken(mounts[0].cache_dir))
    with watch.watching():
        readers = [
            threading.Thread(target=read_small, args=(mount.path / version,)) for mount in mounts
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert MIB < watch.most <= 5_000_000 + 2 * SLACK
    used: list[int] = []

    def is_told_alike() -> bool:
        used[:] = [mount.status()["cache"]["used_bytes"] for mount in mounts]
        return used[0] == used[1]

    wait_until(is_told_alike, what="both count alike")
    assert used[0] <= 5_000_000


def test_what_is_removed_is_counted(mounter: Mounter, version: Path) -> None:
    mount = mounter()
    read_small(mount.path / version)
    before = mount.status()["cache"]["used_bytes"]
    assert before >= SMALL_FILES * SMALL
    check(*WBFS, "cache", "--cache-dir", mount.cache_dir, "clear")
    wait_until(
        lambda: mount.status()["cache"]["used_bytes"] < before / 2, what="the count is right again"
    )

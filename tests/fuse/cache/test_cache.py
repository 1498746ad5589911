"""The cache of a mount: its bounds, a full disk, and `wbfs cache`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import WBFS, Mount, check, run, wait_until
from stand_in import StandIn

FILES = 40
SIZE = 200_000
LOG = f"""
import random
import wandb
with wandb.init(project="cached") as run:
    artifact = wandb.Artifact("files", type="dataset")
    for number in range({FILES}):
        with artifact.new_file(f"{{number:02}}.bin", mode="wb") as file:
            file.write(random.Random(number).randbytes({SIZE}))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="session")
def version(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a version of some megabytes."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("cached"))
    return Path(entity, "cached", "files", "v0")


def read_all(folder: Path) -> None:
    """Read every file, and check it."""
    for number in range(FILES):
        content = (folder / f"{number:02}.bin").read_bytes()
        assert content == random.Random(number).randbytes(SIZE)


def used(cache_dir: Path) -> int:
    total = 0
    for path in (cache_dir / "blobs").rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


@pytest.mark.promises("8.2")
def test_the_cache_keeps_its_size(mounter: Mounter, version: Path, tmp_path: Path) -> None:
    limit = 2_000_000
    # A path is any bytes.
    odd = tmp_path / os.fsdecode(b"cache \xff %41 #?")
    mount = mounter(options=["--cache-size", "2MB"], cache=odd)
    with (mount.path / version / "00.bin").open("rb") as opened:
        opened.read(10)
        for _ in range(2):
            read_all(mount.path / version)
        wait_until(lambda: used(mount.cache_dir) <= limit, what="the cache is within its limit")
        # The kernel's copies are dropped: it is the daemon that has the file still.
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        opened.seek(0)
        assert opened.read() == random.Random(0).randbytes(SIZE)
    status = mount.status()["cache"]
    assert status["limit_bytes"] == limit
    assert 0 < status["used_bytes"] <= limit
    assert "from the cache" in mount.log()


def test_two_daemons_one_small_cache(mounter: Mounter, version: Path) -> None:
    mounts = [mounter(options=["--cache-size", "1MB"]) for _ in range(2)]
    program = (
        "import hashlib, pathlib, sys\n"
        "for _ in range(3):\n"
        "    for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "        print(path.name, hashlib.md5(path.read_bytes()).hexdigest())\n"
    )
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", program, mount.path / version], stdout=subprocess.PIPE, text=True
        )
        for mount in mounts
    ]
    expected = {
        f"{number:02}.bin {hashlib.md5(random.Random(number).randbytes(SIZE)).hexdigest()}"
        for number in range(FILES)
    }
    for reader in readers:
        output, _ = reader.communicate(timeout=100)
        assert reader.returncode == 0
        assert set(output.splitlines()) == expected


def test_a_full_disk_makes_room(
    mounter: Mounter, version: Path, small_disk: Callable[[str], Path]
) -> None:
    mount = mounter(cache=small_disk("4m") / "cache", options=["--min-free", "0"])
    read_all(mount.path / version)
    assert mount.errors() == []
    assert "from the cache" in mount.log()


def cache_command(mount: Mount, *words: str) -> subprocess.CompletedProcess[str]:
    return run(*WBFS, "cache", "--cache-dir", mount.cache_dir, *words)


@pytest.mark.promises("8.5")
def test_cache_commands(mounter: Mounter, version: Path) -> None:
    mount = mounter()
    folder = mount.path / version
    for number in range(10):
        (folder / f"{number:02}.bin").read_bytes()
    name = "{}/{}/{}:{}".format(*version.parts)
    listed = cache_command(mount, "list").stdout.splitlines()
    assert listed[0].split() == ["VERSION", "FILES", "SIZE"]
    assert listed[1].split() == [name, f"10/{FILES}", "2.0", "MB", "of", "8.0", "MB"]
    [row] = json.loads(cache_command(mount, "list", "--json").stdout)
    assert (row["path"], row["cached_files"], row["cached_bytes"]) == (name, 10, 10 * SIZE)
    assert json.loads(cache_command(mount, "info", "--json").stdout)["blobs"] == 10
    assert "10 files" in cache_command(mount, "info").stdout

    blob = next(path for path in (mount.cache_dir / "blobs").rglob("md5-*"))
    blob.chmod(0o600)
    blob.write_bytes(b"x" * SIZE)
    verified = cache_command(mount, "verify")
    assert verified.returncode == 1
    assert f"damaged, and removed: {blob.name}" in verified.stdout
    assert cache_command(mount, "verify").returncode == 0

    assert "are left" in cache_command(mount, "prune", "--to", "1MB").stdout
    assert used(mount.cache_dir) <= 1_000_000
    check(*WBFS, "cache", "--cache-dir", mount.cache_dir, "clear")
    assert used(mount.cache_dir) == 0
    read_all(folder)


def test_cache_of_nothing(tmp_path: Path) -> None:
    done = run(*WBFS, "cache", "--cache-dir", tmp_path / "nothing", "info")
    assert done.returncode == 1
    assert done.stderr.startswith("wbfs: there is no cache at")

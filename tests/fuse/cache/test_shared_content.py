"""Versions of an artifact share what is the same: of the next one only what changed is fetched."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import WBFS, check
from stand_in import StandIn

FILES = 300
CHANGED = (7, 150, 299)
SIZE = 10_000
LARGE = 6 << 20
LOG = f"""
import random
import wandb
with wandb.init(project="sharing") as run:
    for round in range(2):
        artifact = wandb.Artifact("data", type="dataset")
        for number in range({FILES}):
            name = f"{{number % 10}}/{{number:03}}.bin"
            if round and number == 42:
                name = "moved.bin"
            changed = round if number in {CHANGED} else 0
            with artifact.new_file(name, mode="wb") as file:
                file.write(random.Random(f"{{number}} {{changed}}").randbytes({SIZE}))
        with artifact.new_file("large.bin", mode="wb") as file:
            file.write(random.Random("large").randbytes({LARGE}))
        run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="module")
def artifact(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of an artifact whose v1 has one file in a hundred changed, and one moved."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("sharing"))
    return Path(entity, "sharing", "data")


def read_whole(version: Path, *, changed: int) -> None:
    """Read all files of a version and check them; `changed` is 0 for v0, 1 for v1."""
    for number in range(FILES):
        path = version / f"{number % 10}" / f"{number:03}.bin"
        if changed and number == 42:
            path = version / "moved.bin"
        seed = f"{number} {changed if number in CHANGED else 0}"
        assert path.read_bytes() == random.Random(seed).randbytes(SIZE)
    assert (version / "large.bin").read_bytes() == random.Random("large").randbytes(LARGE)


def read_by_the_same_mount(mounter: Mounter, stand_in: StandIn, artifact: Path) -> Path:
    mount = mounter()
    read_whole(mount.path / artifact / "v0", changed=0)
    return mount.path


def read_by_another_mount(mounter: Mounter, stand_in: StandIn, artifact: Path) -> Path:
    other = mounter()
    read_by_the_same_mount(mounter, stand_in, artifact)
    return other.path


def got(mounter: Mounter, stand_in: StandIn, artifact: Path) -> Path:
    mount = mounter()
    root = mount.cache_dir.parent
    env = stand_in.env(root / "home of get") | {"WBFS_CACHE_DIR": str(mount.cache_dir)}
    check(*WBFS, "get", f"{artifact}:v0", "--root", root / "got", env=env)
    read_whole(root / "got", changed=0)
    return mount.path


@pytest.mark.promises("4.3")
@pytest.mark.parametrize("read_before", [read_by_the_same_mount, read_by_another_mount, got])
def test_only_what_changed_is_fetched(
    mounter: Mounter,
    stand_in: StandIn,
    artifact: Path,
    read_before: Callable[[Mounter, StandIn, Path], Path],
) -> None:
    stand_in.clear_requests()
    path = read_before(mounter, stand_in, artifact)
    assert fetched(stand_in) == (FILES, FILES * SIZE + LARGE)
    stand_in.clear_requests()
    read_whole(path / artifact / "v1", changed=1)
    assert fetched(stand_in) == (len(CHANGED), len(CHANGED) * SIZE)


def fetched(stand_in: StandIn) -> tuple[int, int]:
    """Return how many small files the server gave out, and how many bytes of all files."""
    gets = [
        request
        for request in stand_in.requests(port="files", method="GET")
        if not request.key.startswith("manifests/")
    ]
    # The large one comes in parts.
    small = [request.key for request in gets if request.bytes_sent == SIZE]
    return len(small), sum(request.bytes_sent for request in gets)

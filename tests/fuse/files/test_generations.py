"""Bytes that turned out wrong, or whose cached copy is gone, never come back from anywhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import WBFS, Mount, check, wait_until
from stand_in import StandIn

SIZE = 12 << 20
FIRST = 16 << 10
LOG = f"""
import random, sys, wandb
with wandb.init(project="generations") as run:
    artifact = wandb.Artifact(sys.argv[1], type="model")
    with artifact.new_file("model.bin", mode="wb") as file:
        file.write(random.Random(sys.argv[1]).randbytes({SIZE}))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


class Model:
    """A version with one large file."""

    def __init__(self, stand_in: StandIn, home: Path, name: str) -> None:
        self.entity = stand_in.run_sdk(LOG, home, name)
        self.source = f"{self.entity}/generations/{name}:v0"
        self.path = Path(self.entity, "generations", name, "v0", "model.bin")
        self.content = random.Random(name).randbytes(SIZE)


@pytest.fixture
def model(stand_in: StandIn, tmp_path: Path, request: pytest.FixtureRequest) -> Model:
    """Return a model of this test's own: content is fetched once, whatever it is called."""
    return Model(stand_in, tmp_path / "logging", request.node.name.replace("[", "-").strip("]"))


def read_first(mount: Mount, model: Model) -> bytes:
    """Read the file's first bytes, and leave it alone."""
    with (mount.path / model.path).open("rb", buffering=0) as file:
        return file.read(FIRST)


def is_idle(mount: Mount) -> bool:
    """Whether nothing is being fetched, and what has come was noted."""
    maps = list((mount.cache_dir / "partial").glob("*.map"))
    return mount.status()["fetched"]["in_progress"] == 0 and bool(maps)


def read_wrong(mount: Mount, model: Model, stand_in: StandIn) -> None:
    """Have the kernel keep bytes of the file that are wrong."""
    # The manifest comes as it is.
    assert (mount.path / model.path).stat().st_size == SIZE
    with stand_in.faults(port="files", wrong_bytes=True):
        assert read_first(mount, model) != model.content[:FIRST]


def check_content(mount: Mount, model: Model, copy: Path) -> None:
    """Check that every program gets the file: cat, cmp with a copy, and one that maps it."""
    copy.write_bytes(model.content)
    path = mount.path / model.path
    check("cmp", path, copy)
    mapped = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1)"
    compared = f"{mapped}; assert m[:] == open(sys.argv[2], 'rb').read()"
    check(WBFS[0], "-c", compared, path, copy)


@pytest.mark.promises("5.2")
def test_wrong_pages_go_when_another_process_fetches_the_file(
    mounter: Mounter, stand_in: StandIn, model: Model, tmp_path: Path
) -> None:
    mount = mounter()
    read_wrong(mount, model, stand_in)
    wait_until(lambda: is_idle(mount), what="the file is let go of")
    check(*WBFS, "prefetch", mount.path / model.path, env=mount.env)
    check_content(mount, model, tmp_path / "copy")


@pytest.mark.parametrize("how", ["clear", "rm"])
def test_wrong_pages_go_with_the_cache(
    mounter: Mounter, stand_in: StandIn, model: Model, tmp_path: Path, how: str
) -> None:
    mount = mounter()
    read_wrong(mount, model, stand_in)
    wait_until(lambda: is_idle(mount), what="the file is let go of")
    if how == "clear":
        check(*WBFS, "cache", "--cache-dir", mount.cache_dir, "clear", env=stand_in.env(tmp_path))
    else:
        check("rm", "-rf", mount.cache_dir)
    check_content(mount, model, tmp_path / "copy")
    # All of it was read from here, not a part of it from the kernel: so it was checked.
    wait_until(lambda: mount.status()["fetched"]["fetched_files"] == 1, what="it is sealed")


def test_wrong_pages_of_a_file_read_past_the_cache_go(
    mounter: Mounter, stand_in: StandIn, model: Model, tmp_path: Path
) -> None:
    mount = mounter(options=["--cache-size", "64KB"])
    read_wrong(mount, model, stand_in)
    check_content(mount, model, tmp_path / "copy")


def test_right_pages_stay(mounter: Mounter, stand_in: StandIn, model: Model) -> None:
    mount = mounter()
    assert read_first(mount, model) == model.content[:FIRST]
    wait_until(lambda: is_idle(mount), what="the file is let go of")
    reads = mount.status()["requests"]["read"]
    assert read_first(mount, model) == model.content[:FIRST]
    # Those of status.json are not in between: it is read past the page cache.
    assert mount.status()["requests"]["read"] - reads <= 2

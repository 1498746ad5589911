"""One cache for two: what the SDK has is not fetched by wbfs, and the other way round.

And `--path-prefix`, which must mean what `download(path_prefix=...)` does.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from mounts import check, wait_until
from stand_in import StandIn

WANDB = Path(sys.executable).with_name("wandb")
LARGE = 6 << 20
LOG = f"""
import random
import wandb
with wandb.init(project="shared-cache") as run:
    artifact = wandb.Artifact("files", type="dataset")
    for name in (
        "images/bikes/1.png", "images/bikes/2.png", "images/bikes2/3.png", "images/b.txt",
        "images/cars/1.png", "images.txt", "readme.md",
    ):
        with artifact.new_file(name, mode="wb") as file:
            file.write(random.Random(name).randbytes(10_000))
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(random.Random("large").randbytes({LARGE}))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
DOWNLOAD = """
import sys
import wandb
name, root, prefix = sys.argv[1:]
wandb.Api().artifact(name).download(root=root, path_prefix=prefix or None)
"""


@pytest.fixture(scope="session")
def version(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a version."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("shared"))
    return Path(entity, "shared-cache", "files", "v0")


def name_of(version: Path) -> str:
    entity, project, artifact, alias = version.parts
    return f"{entity}/{project}/{artifact}:{alias}"


def download(env: Mapping[str, str], version: Path, root: Path, prefix: str = "") -> None:
    """Have the SDK download the version, or what a prefix lets through."""
    root.mkdir()
    done = prepared.run_sdk("-c", DOWNLOAD, name_of(version), root, prefix, env=env)
    assert done.returncode == 0, done.stderr[-2000:]


def file_gets(stand_in: StandIn) -> int:
    """How many files were asked for; manifests don't count."""
    gets = stand_in.requests(port="files", method="GET")
    return sum(get.path.startswith("/wandb_artifacts/") for get in gets)


@pytest.mark.promises("4.9")
def test_what_was_read_is_there_for_the_sdk(
    mounter: Mounter, version: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    mount = mounter()
    copy = tmp_path / "copy"
    check("cp", "-r", "--no-preserve=mode", mount.path / version, copy)
    objects = tmp_path / "home0/wandb-cache/artifacts/obj"
    wait_until(
        lambda: sum(path.is_file() for path in objects.rglob("*")) == 8,
        what="all are safely on disk, and the SDK's cache has them",
    )
    stand_in.clear_requests()
    root = tmp_path / "root"
    # The mount's own home, and so its SDK's cache.
    download(stand_in.env(tmp_path / "home0"), version, root)
    assert check("diff", "-r", copy, root) == ""
    assert file_gets(stand_in) == 0
    # They are the user's files, with the user's permissions.
    assert (root / "readme.md").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    return int(check("sh", "-c", "umask"), 8)


@pytest.mark.promises("4.9")
def test_what_the_sdk_downloaded_is_there_for_the_mount(
    mounter: Mounter, version: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    download(stand_in.env(tmp_path / "home0"), version, root)
    mount = mounter()
    stand_in.clear_requests()
    assert check("diff", "-r", mount.path / version, root) == ""
    assert file_gets(stand_in) == 0
    check("rm", "-r", tmp_path / "home0")
    # It is wbfs's too now, wherever the SDK's went.
    again = mounter()
    assert check("diff", "-r", again.path / version, root) == ""
    assert file_gets(stand_in) == 0


@pytest.mark.promises("5.5")
def test_damaged_files_of_the_sdk_are_not_served(
    mounter: Mounter, version: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    download(stand_in.env(tmp_path / "home0"), version, root)
    damaged = 0
    for path in (tmp_path / "home0/wandb-cache/artifacts/obj").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            damaged += 1
    assert damaged == 8
    mount = mounter()
    assert check("diff", "-r", mount.path / version, root) == ""
    assert mount.errors() == []


def test_an_sdk_download_at_the_same_time(
    mounter: Mounter, version: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    mount = mounter()
    env = stand_in.env(tmp_path / "home0")
    roots = [tmp_path / f"root{number}" for number in range(2)]
    for root in roots:
        root.mkdir()
    with stand_in.faults(port="files", error_share=0.2):
        downloads = [
            subprocess.Popen(
                [sys.executable, "-c", DOWNLOAD, name_of(version), root, ""],
                env=env,
                stderr=subprocess.DEVNULL,
            )
            for root in roots
        ]
        for number in range(3):
            check("cp", "-r", mount.path / version, tmp_path / f"copy{number}", timeout_s=100)
            check(WANDB, "artifact", "cache", "cleanup", "10KB", env=env)
        for running, root in zip(downloads, roots, strict=True):
            if running.wait(100) != 0:
                # The SDK's own clean-up may take a file from under its download.
                again = (sys.executable, "-c", DOWNLOAD, name_of(version), root, "")
                check(*again, env=env, timeout_s=100)
    for number in range(3):
        assert check("diff", "-r", tmp_path / f"copy{number}", roots[0]) == ""
    assert check("diff", "-r", roots[1], roots[0]) == ""
    content = (roots[0] / "large.bin").read_bytes()
    assert content == random.Random("large").randbytes(LARGE)


@pytest.mark.parametrize(
    "prefix",
    [
        "images/b",
        "images/bikes",
        "images/bikes/",
        "images/bikes/1.png",
        "images",
        "images/",
        "i",
        "/images",
        "./images",
        "images//bikes",
        "images/zebras",
        "readme.md",
        "readme.md/",
    ],
)
def test_path_prefix(
    mounter: Mounter, version: Path, stand_in: StandIn, tmp_path: Path, prefix: str
) -> None:
    mount = mounter(name_of(version), options=["--path-prefix", prefix])
    expected = tmp_path / "root"
    download(stand_in.env(tmp_path / "home0"), version, expected, prefix)
    assert check("diff", "-r", mount.path, expected) == ""
    shown = {str(path.relative_to(mount.path)) for path in mount.path.rglob("*") if path.is_file()}
    for name in ("images/bikes/1.png", "images/cars/1.png", "readme.md"):
        assert os.path.exists(mount.path / name) == (name in shown)

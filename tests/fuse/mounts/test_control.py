"""`.wbfs/` at a mount's root is the mount's own, and its owner's; nobody believes what is in it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import WBFS, Mount, check, run
from stand_in import StandIn

NOBODY = 65534
OURS = ["errors.jsonl", "fetches.jsonl", "metrics", "refresh", "status.json"]
LOG = """
import json
import sys
import wandb
forged = {
    "pid": 1,
    "server": "http://forged.example.com",
    "offline": False,
    "source": "",
    "path_prefix": "",
    "cache": {"dir": sys.argv[1], "limit_bytes": None, "min_free_bytes": 0},
}
with wandb.init(project="control") as run:
    artifact = wandb.Artifact("forged", type="dataset")
    for folder in ("", "folder/"):
        with artifact.new_file(f"{folder}.wbfs/status.json") as file:
            file.write(json.dumps(forged))
        with artifact.new_file(f"{folder}data.txt") as file:
            file.write("data")
    run.log_artifact(artifact).wait()
    for name in ("file", ".wbfs"):
        artifact = wandb.Artifact(name, type="dataset")
        with artifact.new_file(".wbfs") as file:
            file.write("a file")
        run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="module")
def project(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Log artifacts that have what is called `.wbfs`; return entity/project."""
    home = tmp_path_factory.mktemp("control")
    entity = stand_in.run_sdk(LOG, home, home / "forged cache")
    return f"{entity}/control"


def walk(folder: Path) -> list[str]:
    """List all paths below a folder, with attributes, so that the kernel learns every name."""
    return check("find", folder, "-mindepth", "1", "-printf", "%P %s\n").splitlines()


def is_own(mount: Mount) -> bool:
    """Whether the control folder is the mount's, and not listed."""
    return (
        ".wbfs" not in os.listdir(mount.path)
        and sorted(os.listdir(mount.path / ".wbfs")) == OURS
        and mount.status()["pid"] == mount.pid
    )


@pytest.mark.parametrize("source", ["", "{entity}", "{project}", "{project}/forged"])
def test_below_the_root_the_name_is_like_others(
    mounter: Mounter, project: str, source: str
) -> None:
    entity = project.partition("/")[0]
    source = source.format(project=project, entity=entity)
    mount = mounter(source)
    artifact = mount.path / f"{project}/forged".removeprefix(source).lstrip("/")
    version = artifact / "v0"
    found = walk(version)
    for path in (".wbfs", ".wbfs/status.json", "folder/.wbfs/status.json", "data.txt"):
        assert path in [line.rpartition(" ")[0] for line in found]
    assert json.loads((version / ".wbfs/status.json").read_text())["pid"] == 1
    # Not all of the server, which other tests fill.
    walk(artifact)
    assert is_own(mount)


@pytest.mark.promises("1.7")
@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("{project}/forged:v0", ["data.txt", "folder"]),
        ("{project}/forged:latest/folder", ["data.txt"]),
        ("{project}/file:v0", []),
    ],
)
def test_at_the_root_it_is_the_mounts_own(
    mounter: Mounter, project: str, source: str, left: list[str]
) -> None:
    mount = mounter(source.format(project=project))
    assert is_own(mount)
    walk(mount.path)
    assert sorted(os.listdir(mount.path)) == left
    assert is_own(mount)
    [left_out] = mount.status()["left_out"].values()
    assert left_out["count"] == 1
    [[path, why]] = left_out["report"]
    assert path == ".wbfs"
    assert "the mount's own" in why
    assert mount.log().count("is left out") == 1


def test_an_artifact_of_that_name(mounter: Mounter, project: str) -> None:
    mount = mounter(project)
    walk(mount.path)
    assert sorted(os.listdir(mount.path)) == ["file", "forged"]
    assert is_own(mount)
    assert mount.status()["left_out"] == {
        project: {
            "count": 1,
            "report": [[".wbfs", "its name is the mount's own at the mount's root"]],
        }
    }


def test_nothing_in_it_is_believed(
    stand_in: StandIn, mounter: Mounter, project: str, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may bind folders")
    mount = mounter(f"{project}/forged:v0")
    walk(mount.path)
    forged = json.loads((mount.path / "folder/.wbfs/status.json").read_text())["cache"]["dir"]
    # Whatever a command may read there, by whatever means it got there.
    check("mount", "--bind", mount.path / "folder/.wbfs", mount.path / ".wbfs")
    try:
        assert json.loads((mount.path / ".wbfs/status.json").read_text())["pid"] == 1
        env = {**mount.env, "WBFS_CACHE_DIR": str(tmp_path / "other cache")}
        done = run(*WBFS, "prefetch", mount.path / "folder", env=env)
        assert done.returncode == 0, done.stderr
    finally:
        check("umount", mount.path / ".wbfs")
    assert not Path(forged).exists()
    assert not (tmp_path / "other cache").exists()
    stand_in.clear_requests()
    assert (mount.path / "folder/data.txt").read_text() == "data"
    assert stand_in.requests(port="files") == []
    mount.umount()
    assert not mount.is_alive()


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """Return a directory that every user gets to, as they don't to those of tests."""
    folder = Path(tempfile.mkdtemp(prefix="wbfs-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    folder.rmdir()


@pytest.mark.promises("1.7")
def test_it_is_its_owners_only(mounter: Mounter, project: str, public: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may be somebody else")
    mount = mounter(
        f"{project}/forged:v0", options=["--allow-other", "--uid", str(NOBODY), "--umask", "0"]
    )
    check("mount", "--bind", mount.path, public)
    try:
        other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        assert check(*other, "cat", public / "data.txt") == "data"
        for name in OURS:
            done = run(*other, "cat", public / ".wbfs" / name)
            assert done.returncode == 1
            assert "Permission denied" in done.stderr
            check("cat", public / ".wbfs" / name)
        assert "Permission denied" in run(*other, "ls", public / ".wbfs").stderr
        assert check("stat", "-c", "%a %u", public / ".wbfs") == "500 0\n"
    finally:
        check("umount", public)

"""Aliases move, versions don't."""

from __future__ import annotations

import os
import time
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from mounts import check, wait_until
from stand_in import StandIn

LOG = """
import sys
import wandb
with wandb.init(project="moving") as run:
    artifact = wandb.Artifact(sys.argv[1], type="dataset")
    for name in ("a.txt", "folder/b.txt", *sys.argv[3:]):
        with artifact.new_file(name) as file:
            file.write(sys.argv[2] + " " + name)
    run.log_artifact(artifact, aliases=["best"]).wait()
    print(run.entity)
"""
TTL_S = 2.0


def log(stand_in: StandIn, home: Path, name: str, content: str, *more: str) -> str:
    """Log a version with the SDK; return the entity."""
    home.mkdir(exist_ok=True)
    done = prepared.run_sdk("-c", LOG, name, content, *more, env=stand_in.env(home))
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()[-1]


@pytest.mark.promises("2.1", "2.2", "2.3", "2.5")
@pytest.mark.parametrize("narrow", [False, True])
def test_a_moved_alias_is_seen_and_open_files_stay(
    mounter: Mounter, stand_in: StandIn, tmp_path: Path, narrow: bool
) -> None:
    name = f"moved-{narrow}"
    entity = log(stand_in, tmp_path / "home", name, "old")
    options = ["--alias-ttl", str(TTL_S)]
    if narrow:
        best = mounter(f"{entity}/moving/{name}:best", options=options).path
    else:
        best = mounter(options=options).path / entity / "moving" / name / "best"
    pinned = mounter(options=["--alias-ttl", str(TTL_S), "--pin"]).path / entity / "moving" / name
    assert (best / "a.txt").read_text() == "old a.txt"
    assert (pinned / "best" / "a.txt").read_text() == "old a.txt"
    folder = os.open(best / "folder", os.O_RDONLY | os.O_DIRECTORY)
    with (best / "folder" / "b.txt").open() as opened:
        log(stand_in, tmp_path / "home", name, "new", "c.txt")
        wait_until(
            lambda: (best / "a.txt").read_text() == "new a.txt",
            what="the alias shows the new version",
        )
        # All of it at once: no directory is a mixture of two versions.
        assert sorted(os.listdir(best)) == ["a.txt", "c.txt", "folder"]
        assert (best / "folder" / "b.txt").read_text() == "new folder/b.txt"
        assert opened.read() == "old folder/b.txt"
        again = os.open("b.txt", os.O_RDONLY, dir_fd=folder)
        assert os.read(again, 100) == b"old folder/b.txt"
        os.close(again)
    os.close(folder)
    # Longer than a time-to-live after the move.
    time.sleep(TTL_S)
    assert (pinned / "best" / "a.txt").read_text() == "old a.txt"
    assert sorted(os.listdir(pinned)) == ["best", "latest", "v0", "v1"]
    assert sorted(os.listdir(pinned / "best")) == ["a.txt", "folder"]
    assert (pinned / "v1" / "a.txt").read_text() == "new a.txt"


@pytest.mark.promises("3.4")
def test_one_file_through_two_names_is_one_inode(
    mounter: Mounter, stand_in: StandIn, tmp_path: Path
) -> None:
    entity = log(stand_in, tmp_path / "home", "same", "content")
    first, second = (mounter().path / entity / "moving" / "same" for _ in range(2))
    inodes = {
        os.stat(base / alias / "folder" / "b.txt").st_ino
        for base in (first, second)
        for alias in ("v0", "latest", "best")
    }
    assert len(inodes) == 1
    folders = {os.stat(first / alias / "folder").st_ino for alias in ("v0", "latest", "best")}
    assert len(folders) == 3
    assert os.stat(first / "v0" / "folder").st_ino == os.stat(second / "v0" / "folder").st_ino
    listed = check("ls", "-i", first / "v0" / "folder").split()
    assert int(listed[0]) in inodes

"""The `wandb artifact` commands work against the stand-in server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sdk import run_command
from stand_in import StandIn

pytestmark = pytest.mark.sdk

WANDB = [sys.executable, "-m", "wandb", "artifact"]


def test_login(stand_in: StandIn, tmp_path: Path) -> None:
    environment = stand_in.env(tmp_path / "home") | {"WANDB_SILENT": "false"}
    login = [*WANDB[:-1], "login", "--verify", "--host", stand_in.base_url]
    assert "Currently logged in as: admin" in run_command(login, environment, tmp_path)
    with pytest.raises(AssertionError, match="user is not logged in"):
        run_command(login, environment | {"WANDB_API_KEY": "9" * 40}, tmp_path)


def test_put_get_ls_and_cleanup(stand_in: StandIn, tmp_path: Path) -> None:
    environment = stand_in.env(tmp_path / "home") | {"WANDB_SILENT": "false"}
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "folder/b.txt").write_text("b")

    name = "admin/command-line/put"
    command = [*WANDB, "put", "--name", name, "--type", "dataset", "--alias", "mine", str(source)]
    printed = run_command(command, environment, tmp_path)
    assert f'artifact = run.use_artifact("{name}:v0")' in printed

    target = tmp_path / "target"
    run_command([*WANDB, "get", "--root", str(target), f"{name}:mine"], environment, tmp_path)
    found = {
        str(path.relative_to(target)): path.read_text()
        for path in target.rglob("*")
        if path.is_file()
    }
    assert found == {"a.txt": "a", "folder/b.txt": "b"}

    listed = run_command([*WANDB, "ls", "admin/command-line"], environment, tmp_path)
    assert "dataset" in listed
    assert "put:v0" in listed

    cached = [path for path in (tmp_path / "home/wandb-cache").rglob("obj/*/*/*") if path.is_file()]
    assert len(cached) == 2
    printed = run_command([*WANDB, "cache", "cleanup", "0GB"], environment, tmp_path)
    assert "Reclaimed" in printed
    assert not any(path.exists() for path in cached)

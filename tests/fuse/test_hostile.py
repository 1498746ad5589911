"""A manifest made to attack is mounted without harm, and reported."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import check, run
from stand_in import StandIn

LOG = """
import wandb
with wandb.init(project="hostile") as run:
    artifact = wandb.Artifact("attack", type="dataset")
    with artifact.new_file("good.txt") as file:
        file.write("good")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
BAD = [
    "../x",
    "../../../../tmp/escaped",
    "/etc/passwd",
    "a/../../x",
    "a//b",
    "./c",
    "d/.",
    "",
    "x" * 300,
    "folder/" + "y" * 300,
    "nul\0byte",
    "both",
    "lone\ud800surrogate",
]


def test_attack(mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path) -> None:
    server = fresh_stand_in
    done = run(sys.executable, "-c", LOG, env=server.env(tmp_path / "home"), timeout_s=60)
    assert done.returncode == 0, done.stderr[-2000:]
    entity = done.stdout.split()[-1]
    # As a server that was taken over, or an old client, would: behind the SDK's back.
    [path] = [
        path for path in server.data_dir.rglob("*.json") if b'"good.txt"' in path.read_bytes()
    ]
    manifest = json.loads(path.read_text())
    good = manifest["contents"]["good.txt"]
    for name in BAD:
        manifest["contents"][name] = dict(good, local_path="/etc/shadow")
    manifest["contents"]["both/inner.txt"] = good
    manifest["contents"]["no-object"] = "text"
    manifest["contents"]["no-digest"] = {"digest": "not base64!", "size": 4}
    manifest["contents"]["negative"] = dict(good, size=-1)
    manifest["contents"]["café/日本語.txt"] = good
    path.write_text(json.dumps(manifest))

    mount = mounter(server=server)
    version = mount.path / entity / "hostile/attack/v0"
    found = sorted(check("find", version, "-type", "f", "-printf", "%P\n").splitlines())
    assert found == ["both/inner.txt", "café/日本語.txt", "good.txt"]
    assert check("cat", version / "good.txt") == "good"
    check("cp", "-r", version, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path / "copy")) == ["both", "café", "good.txt"]
    assert not Path("/tmp/escaped").exists()
    assert not [path for path in tmp_path.rglob("*") if path.name in ("x", "escaped")]

    [left_out] = mount.status()["left_out"].values()
    assert left_out["count"] == len(BAD) + 3
    reasons = dict(left_out["report"])
    assert reasons["/etc/passwd"] == "its path is absolute"
    assert reasons["both"] == "its name is also a folder's"
    assert f"{len(BAD) + 3} entries are left out" in mount.log()
    assert "does not match" in mount.log()


def test_a_name_forges_no_line_of_the_log(
    mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path
) -> None:
    server = fresh_stand_in
    entity = server.run_sdk(LOG, tmp_path / "home")
    [path] = [
        path for path in server.data_dir.rglob("*.json") if b'"good.txt"' in path.read_bytes()
    ]
    manifest = json.loads(path.read_text())
    name = "a\n2026-11-25 10:00:00,000 ERROR forged: \x1b[2J\u202e"
    # The server knows no file of that name, so that reading it fails.
    manifest["contents"][name] = manifest["contents"].pop("good.txt")
    manifest["contents"][name]["digest"] = "1B2M2Y8AsgTpgAmY7PhCfg=="
    path.write_text(json.dumps(manifest))
    mount = mounter(server=server, options=["--timeout", "2"])
    with pytest.raises(OSError, match="error|timed out") as caught:
        (mount.path / entity / "hostile/attack/v0" / name).read_bytes()
    assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)
    log = mount.log()
    assert r"a\n2026-11-25 10:00:00,000 ERROR forged: \x1b[2J\u202e" in log
    assert not [line for line in log.split("\n") if line.startswith("2026-11-25 10:00:00,000")]
    assert all(line.isprintable() for line in log.split("\n"))
    # JSON is its readers' to show, and has it escaped.
    assert "\x1b" not in (mount.path / ".wbfs/errors.jsonl").read_text()

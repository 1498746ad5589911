"""A manifest made to attack is mounted without harm, and reported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

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

"""`wbfs fluid` as Fluid runs it: started, killed, started again, and unmounted from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from daemons import END_TIMEOUT_S
from mount_table import mounted_at
from mounts import WBFS, check, run, wait_until
from stand_in import StandIn

LOG = """
import wandb
with wandb.init(project="fluid") as run:
    artifact = wandb.Artifact("data", type="dataset")
    with artifact.new_file("a.txt") as file:
        file.write("content")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root may mount for others without user_allow_other"
)
def test_a_dataset(stand_in: StandIn, tmp_path: Path) -> None:
    entity = stand_in.run_sdk(LOG, tmp_path / "sdk")
    target = tmp_path / "runtime-mnt/thin/default/data/thin-fuse"
    secret = tmp_path / "secrets/wandb/api-key"
    secret.parent.mkdir(parents=True)
    secret.write_text(stand_in.api_key)
    options = {"token-file": str(secret), "base-url": stand_in.base_url, "pin": ""}
    # As Fluid writes it, on one line.
    document = {
        "mounts": [
            {"mountPoint": f"wandb://{entity}/fluid/data:v0", "options": options, "name": "data"}
        ],
        "targetPath": str(target),
        "runtimeOptions": {"cache-dir": str(tmp_path / "cache")},
        "accessModes": ["ReadOnlyMany"],
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    env = {"PATH": os.environ["PATH"], "MOUNT_POINT": str(target), "MOUNT_OPTIONS": "ro"}
    env |= {"FLUID_RUNTIME_TYPE": "thin", "HOME": str(tmp_path / "home")}

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [*WBFS, "fluid", "--config", str(tmp_path / "config.json")],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            # The probe of the sample, and what Fluid looks at then.
            check(*WBFS, "status", "--wait", "45", target, env=env)
            [row] = [row for row in mounted_at(target) if row.kind == "fuse.wbfs"]
            assert "allow_other" in row.options
            assert target.stat()
        except BaseException:
            process.kill()
            raise
        return process

    try:
        process = start()
        assert (target / "a.txt").read_text() == "content"
        assert stand_in.api_key.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
        process.kill()
        process.wait(END_TIMEOUT_S)
        assert "Transport endpoint" in run("ls", target).stderr
        # On the dead mount that the one before has left.
        process = start()
        assert (target / "a.txt").read_text() == "content"
        # What Fluid does before a container ends.
        check("umount", target)
        assert process.wait(END_TIMEOUT_S) == 0
        wait_until(lambda: not os.path.ismount(target), what="it is unmounted")
    finally:
        run("umount", "-l", target)
        print((tmp_path / "log").read_text())
    assert not re.search(stand_in.api_key, (tmp_path / "log").read_text())

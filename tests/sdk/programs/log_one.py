"""Log one small artifact. Arguments: RESULT ENTITY PROJECT COLLECTION FILES (a number)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import wandb

RESULT, ENTITY, PROJECT, COLLECTION, FILES = sys.argv[1:]

with wandb.init(entity=ENTITY, project=PROJECT) as run:
    artifact = wandb.Artifact(COLLECTION, "dataset")
    for number in range(int(FILES)):
        with artifact.new_file("f" if number == 0 else f"folder/f{number}", mode="w") as file:
            file.write(f"content {number}")
    run.log_artifact(artifact).wait()
    out = {"run": run.id, "id": artifact.id, "digest": artifact.digest}
Path(RESULT).write_text(json.dumps(out), "utf-8")

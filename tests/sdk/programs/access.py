"""Try to list, download and log as whoever the environment's key belongs to.

Arguments: RESULT ENTITY/PROJECT/COLLECTION:ALIAS. Tells what worked, or the error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import wandb
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

RESULT, NAME = sys.argv[1:]
ENTITY, PROJECT = NAME.split("/")[:2]


def attempt(action: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": action()}
    except (wandb.Error, WandbApiFailedError, requests.RequestException, ValueError) as error:
        return {"error": str(error)}


def log() -> str:
    with wandb.init(entity=ENTITY, project=PROJECT) as run:
        artifact = wandb.Artifact("written", "dataset")
        with artifact.new_file("f", mode="w") as file:
            file.write("written")
        run.log_artifact(artifact).wait()
        return artifact.version


def own_project() -> str:
    with wandb.init(project="of-my-own") as run:
        return run.entity


def main() -> None:
    api = wandb.Api()
    collection = NAME.split("/")[2].split(":")[0]
    out = {
        "viewer": api.viewer.username,
        "teams": api.viewer.teams,
        "api_keys": api.viewer.api_keys,
        "projects": attempt(lambda: [one.name for one in api.projects(ENTITY)]),
        "versions": attempt(
            lambda: [
                one.version for one in api.artifacts("dataset", f"{ENTITY}/{PROJECT}/{collection}")
            ]
        ),
        "entries": attempt(lambda: sorted(api.artifact(NAME).manifest.entries)),
        "download": attempt(lambda: len(list(Path(api.artifact(NAME).download()).iterdir()))),
        "entry": attempt(lambda: api.artifact(NAME).get_entry("f").download()),
        "log": attempt(log),
        "own_project": attempt(own_project),
    }
    Path(RESULT).write_text(json.dumps(out), "utf-8")


main()

"""List and change things with `wandb.Api()`, and tell what came out."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import wandb

RESULT = Path(sys.argv[1])
VERSIONS = 7


def main() -> None:
    out: dict[str, Any] = {}
    with wandb.init(project="api") as run:
        me = run.entity
        out["run"] = run.id
        for type_name in ("dataset", "model"):
            for number in range(2):
                artifact = wandb.Artifact(f"{type_name}-{number}", type_name)
                with artifact.new_file("f.txt", mode="w") as file:
                    file.write(f"{type_name} {number}")
                run.log_artifact(artifact)
        for number in range(VERSIONS):
            artifact = wandb.Artifact("many", "dataset", metadata={"number": number})
            for part in range(5):
                with artifact.new_file(f"part{part}.txt", mode="w") as file:
                    file.write(f"{number} {part}")
            run.log_artifact(artifact, aliases=[f"n{number}"], tags=["odd"] if number % 2 else [])

    api = wandb.Api()
    project = f"{me}/api"
    out["projects"] = [one.name for one in api.projects(me)]
    out["types"] = sorted(one.name for one in api.artifact_types(project))
    out["collections"] = sorted(one.name for one in api.artifact_collections(project, "dataset"))
    out["chosen_collections"] = [
        one.name
        for one in api.artifact_type("dataset", project).collections(
            filters={"name": {"$regex": "^dataset"}}, order="-name"
        )
    ]
    out["versions"] = [one.version for one in api.artifacts("dataset", f"{project}/many")]
    out["ordered"] = [
        one.version
        for one in api.artifacts("dataset", f"{project}/many", order="+createdAt", per_page=2)
    ]
    out["tagged"] = sorted(
        one.version for one in api.artifacts("dataset", f"{project}/many", tags=["odd"])
    )
    many = api.artifact(f"{project}/many:n3")
    out["by_alias"] = [many.version, dict(many.metadata), many.logged_by().id]
    out["by_digest"] = api.artifact(f"{project}/many:{many.digest}").version
    out["files"] = [[file.name, file.size] for file in many.files(per_page=2)]
    out["named_files"] = [file.name for file in many.files(names=["part1.txt"])]
    out["exists"] = [
        api.artifact_exists(f"{project}/many:v0"),
        api.artifact_exists(f"{project}/many:v99"),
        api.artifact_exists(f"{project}/none"),
        api.artifact_exists(f"{me}/no-project/none"),
        api.artifact_collection_exists(f"{project}/many", "dataset"),
    ]

    many.aliases.append("added")
    many.aliases.remove("n3")
    many.tags = ["new tag"]
    many.description = "described"
    many.metadata["more"] = [1, {"two": None}]
    many.ttl = timedelta(hours=1)
    many.save()
    changed = wandb.Api().artifact(f"{project}/many:added")
    out["changed"] = {
        "version": changed.version,
        "aliases": sorted(changed.aliases),
        "tags": changed.tags,
        "description": changed.description,
        "metadata": dict(changed.metadata),
        "ttl_s": changed.ttl.total_seconds(),
    }
    out["old_alias"] = api.artifact_exists(f"{project}/many:n3")

    latest = api.artifact(f"{project}/many:latest")
    out["latest"] = latest.version
    try:
        latest.delete()
    except wandb.Error as error:
        out["delete_refused"] = str(error)
    latest.delete(delete_aliases=True)
    fresh = wandb.Api()
    out["versions_after_delete"] = [
        one.version for one in fresh.artifacts("dataset", f"{project}/many")
    ]
    out["latest_after_delete"] = fresh.artifact(f"{project}/many").version

    collection = api.artifact_collection("model", f"{project}/model-1")
    collection.description = "a model"
    collection.tags = ["kept", "lost"]
    collection.save()
    collection.tags = ["kept"]
    collection.name = "renamed"
    collection.save()
    collection.change_type("checkpoint")
    found = wandb.Api().artifact_collection("checkpoint", f"{project}/renamed")
    out["collection"] = [found.name, found.type, found.description, found.tags, found.aliases]
    api.artifact_collection("model", f"{project}/model-0").delete()
    out["models"] = [one.name for one in api.artifact_collections(project, "model")]

    run = wandb.Api().run(f"{project}/{out['run']}")
    out["run_state"] = run.state
    out["runs"] = [one.id for one in wandb.Api().runs(project, filters={"state": "finished"})]
    out["run_files"] = sorted(file.name for file in run.files())
    path = run.file("config.yaml").download(root=str(Path.cwd() / "run-files"), replace=True)
    out["run_file"] = bool(path.read())
    # Also where it is gone already.
    for _ in range(2):
        run.delete()
    out["runs_after_delete"] = [one.id for one in wandb.Api().runs(project)]
    RESULT.write_text(json.dumps(out), "utf-8")


main()

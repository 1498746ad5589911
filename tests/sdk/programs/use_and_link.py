"""Use artifacts across projects and entities, link them, and tell what came out.

Arguments: RESULT TEAM. The team has to be in an organization with a registry `model`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import wandb

RESULT, TEAM = Path(sys.argv[1]), sys.argv[2]


def make(name: str, text: str, type: str = "dataset") -> wandb.Artifact:
    artifact = wandb.Artifact(name, type)
    with artifact.new_file("text.txt", mode="w") as file:
        file.write(text)
    return artifact


def text(artifact: wandb.Artifact) -> str:
    return (Path(artifact.download()) / "text.txt").read_text()


def describe(artifact: wandb.Artifact) -> dict[str, Any]:
    return {
        "qualified_name": artifact.qualified_name,
        "source": artifact.source_qualified_name,
        "aliases": sorted(artifact.aliases),
        "is_link": artifact.is_link,
        "text": text(artifact),
    }


def main() -> None:
    out: dict[str, Any] = {}
    with wandb.init(project="made") as run:
        me = run.entity
        out["entity"] = me
        for number in range(3):
            run.log_artifact(make("ours", f"ours {number}", "model")).wait()
    with wandb.init(project="made", entity=TEAM) as run:
        run.log_artifact(make("theirs", "of the team"), aliases=["shared"]).wait()

    with wandb.init(project="uses") as run:
        out["user_run"] = run.id
        out["other_project"] = text(run.use_artifact(f"{me}/made/ours:v1"))
        out["other_entity"] = text(run.use_artifact(f"{TEAM}/made/theirs:shared"))
        run.log_artifact(make("here", "in the same project")).wait()
        out["same_project"] = text(run.use_artifact("here:latest"))
        unlogged = run.use_artifact(make("unlogged", "never logged before")).wait()
        out["unlogged"] = describe(unlogged)
        out["unlogged_logged_by"] = unlogged.logged_by()

        ours = run.use_artifact(f"{me}/made/ours:v2")
        linked = run.link_artifact(ours, f"{me}/uses/portfolio", aliases=["chosen"])
        out["linked"] = describe(linked)
        first = wandb.Api().artifact(f"{me}/made/ours:v0")
        out["linked_again"] = describe(first.link(f"{me}/uses/portfolio"))
        direct = make("direct", "logged and linked at once", "model")
        run.link_artifact(direct, f"{me}/uses/direct-portfolio")
        registered = run.link_artifact(ours, "wandb-registry-model/good", aliases=["prod"])
        out["registered"] = describe(registered)

    api = wandb.Api()
    out["chosen"] = describe(api.artifact(f"{me}/uses/portfolio:chosen"))
    out["portfolio_latest"] = describe(api.artifact(f"{me}/uses/portfolio"))
    out["direct"] = describe(api.artifact(f"{me}/uses/direct-portfolio:latest"))
    out["registry"] = describe(api.artifact("wandb-registry-model/good:prod"))
    ours = api.artifact(f"{me}/made/ours:v2")
    out["used_by"] = [one.id for one in ours.used_by()]
    out["links"] = sorted(link.qualified_name for link in ours.linked_artifacts)
    consumer = api.run(f"{me}/uses/{out['user_run']}")
    out["inputs"] = sorted(one.qualified_name for one in consumer.used_artifacts())
    out["outputs"] = sorted(one.name for one in consumer.logged_artifacts())

    registry = api.registries(filter={"name": "model"})
    out["registries"] = [one.name for one in registry]
    out["registry_collections"] = [one.name for one in registry.collections()]
    out["registry_versions"] = [
        one.qualified_name for one in registry.collections().versions(filter={"alias": "prod"})
    ]

    created = api.create_registry(
        "created",
        visibility="organization",
        organization="Links",
        description="made by a test",
        artifact_types=["dataset"],
    )
    created.description = "changed"
    created.save()
    found = wandb.Api().registry("created", organization="Links")
    out["created_registry"] = [found.full_name, found.description, list(found.artifact_types)]
    found.delete()
    out["registries_left"] = sorted(one.name for one in api.registries())

    api.artifact(f"{me}/uses/portfolio:chosen").unlink()
    out["after_unlink"] = sorted(link.qualified_name for link in ours.linked_artifacts)
    RESULT.write_text(json.dumps(out), "utf-8")


main()

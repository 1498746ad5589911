"""Resolvers of runs and their files, and the mutations of both."""

from __future__ import annotations

import json
import secrets
from typing import Any

from ariadne import MutationType, ObjectType

from wbfs.devserver.data.accounts import Access, User
from wbfs.devserver.data.artifacts import Artifact
from wbfs.devserver.data.ids import decode_id, encode_id
from wbfs.devserver.data.paging import Connection
from wbfs.devserver.data.projects import Project
from wbfs.devserver.data.runs import EVENTS, HISTORY, OUTPUT, Run, RunChange
from wbfs.devserver.errors import NotFound
from wbfs.devserver.resolvers.context import Context, Info, page
from wbfs.devserver.resolvers.files import FileNode, run_file_node

mutation = MutationType()
run_type = ObjectType("Run")

TYPES = [mutation, run_type]

# An argument's name by the field of RunChange that it sets.
CHANGES = {
    "display_name": "display_name",
    "description": "description",
    "notes": "notes",
    "config": "config",
    "summary_metrics": "summary_metrics",
    "state": "state",
    "job_type": "job_type",
    "run_group": "group_name",
    "commit_hash": "commit",
    "host": "host",
}


@run_type.field("id")
def run_id(run: Run, info: Info) -> str:
    return encode_id("Run", run.id)


@run_type.field("projectId")
def run_project_id(run: Run, info: Info) -> int:
    return run.project_id


@run_type.field("project")
def run_project(run: Run, info: Info) -> Project | None:
    ctx = info.context
    return ctx.visible(ctx.services.projects.by_id(run.project_id))


@run_type.field("user")
def run_user(run: Run, info: Info) -> User | None:
    return info.context.services.accounts.user(run.user_id or 0)


@run_type.field("tags")
def run_tags(run: Run, info: Info) -> Any:
    return json.loads(run.tags)


@run_type.field("wandbConfig")
def run_wandb_config(run: Run, info: Info, keys: list[str] | None = None) -> str:
    value = json.loads(run.config).get("_wandb", {}).get("value", {})
    return json.dumps({key: value[key] for key in keys or value if key in value})


@run_type.field("systemMetrics")
def run_system_metrics(run: Run, info: Info) -> str:
    return "{}"


@run_type.field("group")
def run_group(run: Run, info: Info) -> str | None:
    return run.run_group


@run_type.field("commit")
def run_commit(run: Run, info: Info) -> str | None:
    return run.commit_hash


@run_type.field("sweepName")
def run_sweep_name(run: Run, info: Info) -> None:
    return None


@run_type.field("readOnly")
def run_read_only(run: Run, info: Info) -> bool:
    ctx = info.context
    project = ctx.services.projects.by_id(run.project_id)
    return ctx.services.projects.access(ctx.viewer, project) < Access.WRITE


@run_type.field("historyLineCount")
def run_history_line_count(run: Run, info: Info) -> int:
    return info.context.services.runs.line_count(run, HISTORY)


@run_type.field("eventsLineCount")
def run_events_line_count(run: Run, info: Info) -> int:
    return info.context.services.runs.line_count(run, EVENTS)


@run_type.field("logLineCount")
def run_log_line_count(run: Run, info: Info) -> int:
    return info.context.services.runs.line_count(run, OUTPUT)


@run_type.field("historyTail")
def run_history_tail(run: Run, info: Info) -> str:
    return json.dumps(info.context.services.runs.lines(run, HISTORY, last=1))


@run_type.field("eventsTail")
def run_events_tail(run: Run, info: Info) -> str:
    return json.dumps(info.context.services.runs.lines(run, EVENTS, last=1))


@run_type.field("historyKeys")
def run_history_keys(run: Run, info: Info) -> dict[str, Any]:
    return {"keys": {key: {} for key in info.context.services.runs.history_keys(run)}}


@run_type.field("history")
def run_history(
    run: Run,
    info: Info,
    min_step: int | None = None,
    max_step: int | None = None,
    samples: int | None = None,
) -> list[str]:
    lines = info.context.services.runs.lines(run, HISTORY)
    steps = [(json.loads(line).get("_step", number), line) for number, line in enumerate(lines)]
    chosen = [
        line
        for step, line in steps
        if (min_step is None or step >= min_step) and (max_step is None or step < max_step)
    ]
    return chosen[:samples]


@run_type.field("files")
def run_files(
    run: Run,
    info: Info,
    names: list[str] | None = None,
    first: int | None = None,
    after: str | None = None,
    pattern: str | None = None,
) -> Connection[FileNode]:
    ctx = info.context
    return ctx.services.runs.files(run, page(first, after), names or [], pattern).map(
        lambda file: run_file_node(ctx, run, file)
    )


@run_type.field("fileCount")
def run_file_count(run: Run, info: Info) -> int:
    ctx = info.context
    return ctx.services.runs.files(run, page(0, None), [], None).total_count


@run_type.field("inputArtifacts")
def run_input_artifacts(
    run: Run, info: Info, first: int | None = None, after: str | None = None
) -> Connection[Artifact]:
    return info.context.services.artifacts.of_run(run, "INPUT", page(first, after))


@run_type.field("outputArtifacts")
def run_output_artifacts(
    run: Run, info: Info, first: int | None = None, after: str | None = None
) -> Connection[Artifact]:
    return info.context.services.artifacts.of_run(run, "OUTPUT", page(first, after))


@mutation.field("upsertBucket")
def upsert_bucket(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    tags = input.get("tags")
    change = RunChange(
        **{field: input.get(name) for field, name in CHANGES.items()},
        tags=None if tags is None else json.dumps(tags),
    )
    with ctx.services.database.transaction():
        if input.get("id"):
            run = ctx.services.runs.update(_run_of_id(ctx, input["id"]), change)
            return {"bucket": run, "inserted": False}
        project = ctx.services.projects.writable(
            ctx.user,
            input.get("entity_name") or ctx.default_entity,
            input.get("model_name") or "uncategorized",
        )
        name = input.get("name") or secrets.token_hex(4)
        run, inserted = ctx.services.runs.upsert(project, name, ctx.user, change)
    return {"bucket": run, "inserted": inserted}


@mutation.field("deleteRun")
def delete_run(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    services = ctx.services
    with services.database.transaction():
        if services.runs.by_id(decode_id("Run", input["id"])) is None:
            return {}  # What is gone already is deleted.
        run = _run_of_id(ctx, input["id"])
        if input.get("delete_artifacts"):
            for edge in services.artifacts.of_run(run, "OUTPUT", page(None, None)).edges:
                services.artifacts.delete(edge.node, delete_aliases=True)
        services.runs.delete(run)
    return {}


@mutation.field("createRunFiles")
def create_run_files(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    with ctx.services.database.transaction():
        run = _run_of_files(ctx, input)
        files = [
            {"name": name, "upload_url": ctx.services.runs.add_file(run, name)}
            for name in input["files"]
        ]
    return {"run_id": encode_id("Run", run.id), "upload_headers": [], "files": files}


@mutation.field("markRunFilesUploaded")
def mark_run_files_uploaded(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    _run_of_files(info.context, input)
    return {"success": True}


def _run_of_files(ctx: Context, input: dict[str, Any]) -> Run:
    return ctx.run(input["entity_name"], input["project_name"], input["run_name"], Access.WRITE)


def _run_of_id(ctx: Context, text: str) -> Run:
    run = ctx.services.runs.by_id(decode_id("Run", text))
    if run is None:
        raise NotFound("run not found")
    ctx.require(ctx.services.projects.by_id(run.project_id), Access.WRITE)
    return run

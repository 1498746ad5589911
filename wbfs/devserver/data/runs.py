"""Runs, their files and the lines that they stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from wbfs.devserver.data.accounts import User
from wbfs.devserver.data.database import Database, now
from wbfs.devserver.data.filters import Field, parse_filters, parse_order
from wbfs.devserver.data.paging import Connection, Pager, PageRequest
from wbfs.devserver.data.projects import Project
from wbfs.devserver.errors import InvalidRequest
from wbfs.devserver.objects.origin import Origin

HISTORY = "wandb-history.jsonl"
EVENTS = "wandb-events.jsonl"
SUMMARY = "wandb-summary.json"
OUTPUT = "output.log"

RUN_FIELDS = {
    "name": Field(sql="name"),
    **dict.fromkeys(("display_name", "displayName"), Field(sql="display_name")),
    "state": Field(sql="state"),
    "group": Field(sql="run_group"),
    **dict.fromkeys(("job_type", "jobType"), Field(sql="job_type")),
    **dict.fromkeys(("created_at", "createdAt"), Field(sql="created_at")),
    **dict.fromkeys(("heartbeat_at", "heartbeatAt"), Field(sql="heartbeat_at")),
    "config": Field(sql="config"),
    **dict.fromkeys(("summary_metrics", "summary"), Field(sql="summary_metrics")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of a project; `name` is what the SDK calls the run's id."""

    id: int
    project_id: int
    name: str
    user_id: int | None
    display_name: str | None
    description: str | None
    notes: str | None
    config: str
    summary_metrics: str
    state: str
    job_type: str | None
    run_group: str | None
    commit_hash: str | None
    host: str | None
    tags: str
    created_at: str
    heartbeat_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A file of a run."""

    id: int
    run_id: int
    name: str
    object_key: str
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChange:
    """What a client says of a run; None leaves a field as it is."""

    display_name: str | None = None
    description: str | None = None
    notes: str | None = None
    config: str | None = None
    summary_metrics: str | None = None
    state: str | None = None
    job_type: str | None = None
    run_group: str | None = None
    commit_hash: str | None = None
    host: str | None = None
    tags: str | None = None


class Runs:
    """The runs in `database`, whose files are in `origin`."""

    def __init__(self, database: Database, origin: Origin, pager: Pager) -> None:
        self._database = database
        self._origin = origin
        self._pager = pager

    def by_id(self, run_id: int | None) -> Run | None:
        """Return a run by row id."""
        return self._database.one(Run, "SELECT * FROM run WHERE id = ?", (run_id,))

    def named(self, project: Project, name: str) -> Run | None:
        """Return a run by name."""
        return self._database.one(
            Run, "SELECT * FROM run WHERE project_id = ? AND name = ?", (project.id, name)
        )

    def of_project(
        self, project: Project, page: PageRequest, filters: str | None, order: str | None
    ) -> Connection[Run]:
        """Return a page of a project's runs, newest first."""
        condition = parse_filters(filters, RUN_FIELDS)
        return self._pager.rows(
            Run,
            f"SELECT * FROM run WHERE project_id = ? AND {condition.sql}"
            f" ORDER BY {parse_order(order, RUN_FIELDS, 'id')}",
            (project.id, *condition.parameters),
            page,
        )

    def upsert(
        self, project: Project, name: str, user: User, change: RunChange
    ) -> tuple[Run, bool]:
        """Make or change a run; return it, and whether it was made now."""
        known = self.named(project, name)
        if known is not None:
            return self.update(known, change), False
        self._database.write(
            "INSERT INTO run (project_id, name, user_id, display_name, state, created_at,"
            " heartbeat_at) VALUES (?, ?, ?, ?, 'running', ?, ?)",
            (project.id, name, user.id, name, now(), now()),
        )
        made = self.named(project, name)
        assert made is not None
        return self.update(made, change), True

    def update(self, run: Run, change: RunChange) -> Run:
        """Change what is not None."""
        names = [field.name for field in fields(change)]
        self._database.write(
            f"UPDATE run SET {', '.join(f'{name} = COALESCE(?, {name})' for name in names)},"
            " heartbeat_at = ? WHERE id = ?",
            (*(getattr(change, name) for name in names), now(), run.id),
        )
        updated = self.by_id(run.id)
        assert updated is not None
        return updated

    def delete(self, run: Run) -> None:
        """Remove a run; the artifacts that it logged stay."""
        self._database.write("DELETE FROM run WHERE id = ?", (run.id,))

    def stream(self, run: Run, message: Mapping[str, Any]) -> None:
        """Take a file_stream message: numbered lines of files, and the run's end.

        Raises InvalidRequest for a message of another shape.
        """
        for name, part in (message.get("files") or {}).items():
            if not isinstance(part, dict) or not isinstance(part.get("content"), list):
                raise InvalidRequest(f"invalid lines of {name!r}")
            offset = int(part.get("offset") or 0)
            self._database.write_many(
                "INSERT INTO run_line (run_id, stream, line, text) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (run_id, stream, line) DO UPDATE SET text = excluded.text",
                [(run.id, name, offset + i, str(line)) for i, line in enumerate(part["content"])],
            )
            if name == SUMMARY and part["content"]:
                self.update(run, RunChange(summary_metrics=str(part["content"][-1])))
        if message.get("complete"):
            finished = "finished" if message.get("exitcode") == 0 else "failed"
            self.update(run, RunChange(state=finished))

    def line_count(self, run: Run, stream: str) -> int:
        """Return the number of lines of one stream."""
        count = self._database.number(
            "SELECT COUNT(*) FROM run_line WHERE run_id = ? AND stream = ?", (run.id, stream)
        )
        return count or 0

    def lines(self, run: Run, stream: str, last: int | None = None) -> list[str]:
        """Return the lines of one stream, or only the `last` ones."""
        lines = self._database.column(
            "SELECT text FROM run_line WHERE run_id = ? AND stream = ? ORDER BY line DESC LIMIT ?",
            (run.id, stream, -1 if last is None else last),
        )
        return lines[::-1]

    def history_keys(self, run: Run) -> list[str]:
        """Return the names of the metrics that a run logged."""
        keys: set[str] = set()
        for line in self.lines(run, HISTORY):
            keys.update(json.loads(line))
        return sorted(keys)

    def add_file(self, run: Run, name: str) -> str:
        """Announce a file of a run; return the URL to upload it to."""
        key = f"runs/{run.project_id}/{run.name}/{name}"
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise InvalidRequest(f"invalid file name: {name!r}")
        self._database.write(
            "INSERT INTO run_file (run_id, name, object_key, created_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (run.id, name, key, now()),
        )
        return self._origin.put_url(key)

    def file(self, run: Run, name: str) -> RunFile | None:
        """Return a file of a run by name."""
        return self._database.one(
            RunFile, "SELECT * FROM run_file WHERE run_id = ? AND name = ?", (run.id, name)
        )

    def files(
        self, run: Run, page: PageRequest, names: list[str], pattern: str | None
    ) -> Connection[RunFile]:
        """Return a page of a run's files.

        names: only these, if there are any.
        pattern: only those that match it, in SQL's LIKE syntax.
        """
        return self._pager.rows(
            RunFile,
            "SELECT * FROM run_file WHERE run_id = ?"
            " AND (? = '[]' OR name IN (SELECT value FROM json_each(?)))"
            " AND name LIKE ? ORDER BY name",
            (run.id, *(2 * [json.dumps(names)]), pattern or "%"),
            page,
        )

"""Where mounts of the user's show a version, once they have been told to look again."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from wbfs.daemon.mounts.looking.health import Question
from wbfs.daemon.mounts.records import Records
from wbfs.model.entries import Version
from wbfs.model.names import Source

SHOW_TIMEOUT_S = 10.0
"""Seconds that mounts have, together, to show it."""


def show(version: Version, names: Collection[str], server: str) -> list[Path]:
    """Have mounts of a server look again; return the paths at which they show the version by now.

    `names` are the version's own name and its aliases.
    """
    asked: list[tuple[Path, Question]] = []
    try:
        for mountpoint, record in Records().of_server(server):
            inside = None if record.offline else _inside(version, names, record.shown)
            if inside is not None:
                question = Question(mountpoint, "shows", more=(str(inside), version.id))
                asked.append((mountpoint / inside, question))
        until_s = time.monotonic() + SHOW_TIMEOUT_S
        for _, question in asked:
            question.wait(until_s)
        return [path for path, question in asked if question.answer.get("shows")]
    finally:
        for _, question in asked:
            question.close()


def _inside(version: Version, names: Collection[str], source: Source) -> Path | None:
    """Return where below its mountpoint a mount would show the version; None where it can't."""
    place = (version.entity, version.project, version.collection)
    named = [name for name in (source.entity, source.project, source.collection) if name]
    if list(place[: len(named)]) != named:
        return None
    if source.alias:
        return Path() if source.alias in names else None
    return Path(*place[len(named) :], version.name)

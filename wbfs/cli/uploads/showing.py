"""Where mounts of the user's show a version, once they have been told to look again."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from wbfs.daemon.mounts.looking.health import Question
from wbfs.daemon.mounts.records import Records
from wbfs.daemon.mounts.table import mounts
from wbfs.model.entries import Version
from wbfs.model.names import Source, parse_source
from wbfs.remote.credentials import is_same_server

SHOW_TIMEOUT_S = 10.0
"""Seconds that mounts have, together, to show it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mount that may show it: at its mountpoint, and what its SOURCE is."""

    mountpoint: Path
    source: Source


def candidates(server: str) -> list[Candidate]:
    """Return this user's mounts of what is at a server."""
    records = Records()
    return [
        Candidate(mount.mountpoint, parse_source(record.source))
        for mount in mounts()
        if mount.is_ours and not mount.is_another_users and mount.root == "/"
        if (record := records.find(mount.device)) is not None
        and not record.offline
        and is_same_server(record.server, server)
    ]


def show(version: Version, names: Collection[str], found: Sequence[Candidate]) -> list[Path]:
    """Have mounts look again; return the paths at which they show the version by now.

    `names` are the version's own name and its aliases.
    """
    asked: list[tuple[Path, Question]] = []
    try:
        for mount in found:
            inside = _inside(version, names, mount.source)
            if inside is not None:
                more = (str(inside), version.id)
                question = Question(mount.mountpoint, "shows", more=more)
                asked.append((mount.mountpoint / inside, question))
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

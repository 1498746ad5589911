"""From what was opened by which process to what is used by which run.

A process without a run is looked at again while it lives, since data are often opened before
`wandb.init`. What it opened in a run before is not the next one's for that: the look may have come
after that run's end. Blocking code, for one thread that nothing waits for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from wbfs.daemon.lineage.readers import Process, Readers
from wbfs.daemon.mounts.records import start_of
from wbfs.model.lately import Lately
from wbfs.model.runs import Run, Use

PATIENCE_S = 15 * 60.0
"""Seconds that a process may take until it has a run."""
FIRST_WAIT_S = 1.0
WAIT_SHARE = 0.05
"""How long a process is left alone, as a share of how long it has had no run already."""
MAX_WAITING = 1024
"""Processes without a run that are looked at again."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A version of which a process, the first of `kin`, has opened a file."""

    kin: tuple[Process, ...]
    artifact_id: str
    version: str


class _Reader(NamedTuple):
    """A process that reads, and when it began, since numbers are given out again."""

    pid: int
    started: int | None


@dataclass(slots=True)
class _Waiting:
    """A process without a run, since a moment of the monotonic clock, and what it opened."""

    kin: tuple[Process, ...]
    since: float
    due: float
    versions: dict[str, str]


class Finder:
    """Finds runs; `dropped` counts processes too many that were not looked at again."""

    def __init__(self, look_around: Callable[[], Readers]) -> None:
        """`look_around` returns what processes are at this moment."""
        self._look_around = look_around
        self._waiting: dict[_Reader, _Waiting] = {}
        # What readers opened in runs.
        self._used: Lately[tuple[_Reader, str], bool] = Lately()
        self.dropped = 0

    def find(self, opened: Iterable[Opened], *, at_last: bool = False) -> list[Use]:
        """Return what runs use by now; `at_last` no process is looked at later any more."""
        now = time.monotonic()
        looked_at: dict[_Reader, _Waiting] = {}
        for one in opened:
            reader = _Reader(one.kin[0].pid, start_of(one.kin[0].pid))
            found = looked_at.setdefault(
                reader, self._waiting.get(reader) or _Waiting(one.kin, now, now, {})
            )
            found.versions[one.artifact_id] = one.version
        for reader, waiting in self._waiting.items():
            if at_last or now >= waiting.due:
                looked_at.setdefault(reader, waiting)
        readers = self._look_around()
        return [
            use
            for reader, found in looked_at.items()
            for use in self._uses_of(reader, found, readers.runs_of(found.kin))
        ]

    def _uses_of(self, reader: _Reader, found: _Waiting, runs: frozenset[Run | str]) -> list[Use]:
        self._waiting.pop(reader, None)
        if not runs:
            self._wait(reader, found)
        for artifact_id in found.versions if runs else ():
            self._used.put((reader, artifact_id), True)
        return [
            Use(run=run, artifact_id=artifact_id, version=version)
            for run in runs
            for artifact_id, version in found.versions.items()
        ]

    def _wait(self, reader: _Reader, waiting: _Waiting) -> None:
        """Have a process be looked at again, if it may have a run later."""
        now = time.monotonic()
        has_ended = reader.started is None or start_of(reader.pid) != reader.started
        waiting.versions = {
            artifact_id: version
            for artifact_id, version in waiting.versions.items()
            if not self._used.get((reader, artifact_id))
        }
        if not waiting.versions or has_ended or now > waiting.since + PATIENCE_S:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        waiting.due = now + max(FIRST_WAIT_S, WAIT_SHARE * (now - waiting.since))
        self._waiting[reader] = waiting

    @property
    def due_in_s(self) -> float | None:
        """Seconds until a process is to be looked at again; None where none is."""
        if not self._waiting:
            return None
        return max(0.0, min(one.due for one in self._waiting.values()) - time.monotonic())

"""Whose run is it that reads? Found in /proc, of a reader and of the processes that it comes from.

The process that called `wandb.init` keeps the run's `debug.log` open until the run ends; forks have
it open too, and what was spawned has a parent that does. Beside that only the environment tells of
a run, where W&B's agents, or the user, set WANDB_RUN_ID.

Blocking code, for one thread that nothing waits for: reading an environment takes a lock of the
process which a page fault on this very mount may hold, and a run's folder may be anywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wbfs.model.errors import NameInvalid, UsageError
from wbfs.model.runs import Run, parse_run
from wbfs.remote.credentials import normal_url

MAX_PARENTS = 32
"""Processes that are looked at for one reader, itself and upwards."""
MAX_BYTES = 1 << 20
"""What is read of an environment."""
# What is deleted meanwhile has a word behind.
_DEBUG_LOG = re.compile(r"(/.*/(?:offline-)?run-[\d_]+-([^/]+))/logs/debug\.log(?: \(deleted\))?")


@dataclass(frozen=True, slots=True)
class Process:
    """A process; `started` is in clock ticks since the boot, since numbers are given out again."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class _Status:
    """What is known of a thread's process without waiting for anything."""

    process: Process
    parent: int


class Readers:
    """What is found of processes of this user, for one server."""

    def __init__(self, *, server: str, default_entity: str) -> None:
        """`server` is its URL; `default_entity` that of runs which were told none."""
        self._server = server
        self._default_entity = default_entity
        self._uid = os.getuid()

    def process_of(self, thread: int) -> Process | None:
        """Return the process of a thread; None where it has ended."""
        status = _status_of(thread)
        return status and status.process

    def runs_of(self, process: Process) -> frozenset[Run | str] | None:
        """Return the runs that a process belongs to; those of transaction logs by their paths.

        None is returned where there may be some later: not for one that has ended, nor where the
        environment says that it is of no run, or of another server's.
        """
        named: str | None = None
        environ: Mapping[str, str] = {}
        of_name: Mapping[str, str] = {}
        for current in self._upwards(process):
            environ = self._environ(current.pid)
            if not self._is_ours(environ):
                return frozenset()
            own = environ.get("WANDB_RUN_ID")
            if logs := self._logs_of(current.pid):
                # A name that was given to it is inherited, and the run that it has is another.
                if named is None or named == own:
                    return logs
                break
            if named is None and own:
                named, of_name = own, environ
        if named is not None and (run := self._named(named, of_name)) is not None:
            return frozenset({run})
        return None if _status_of(process.pid) is not None else frozenset()

    def _upwards(self, process: Process) -> Iterator[Process]:
        """Yield a process and those that it comes from, as far as they are this user's."""
        pid = process.pid
        for _ in range(MAX_PARENTS):
            status = _status_of(pid)
            if status is None or pid in (0, 1) or _owner_of(pid) != self._uid:
                return
            yield status.process
            pid = status.parent

    def _is_ours(self, environ: Mapping[str, str]) -> bool:
        """Whether it may have runs, and those at this server."""
        if environ.get("WANDB_MODE") in ("disabled", "dryrun-disabled"):
            return False
        url = environ.get("WANDB_BASE_URL")
        try:
            return not url or normal_url(url) == self._server
        except UsageError:
            return False

"""Whose run is it that reads? Found in /proc, of a reader and of the processes that it comes from.

The process that called `wandb.init` keeps the run's `debug.log` open until the run ends; forks have
it open too, which is their run until they call it, and what was spawned has a parent that does.
Where it was closed, as by a program that sets up Python's logging anew, the SDK's service, a child
of that process, still has the run's transaction log open. Beside that only the environment tells of
a run, where W&B's agents, or the user, set WANDB_RUN_ID.

Blocking code, for one thread that nothing waits for: reading an environment takes a lock of the
process which a page fault on this very mount may hold, and a run's folder may be anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wbfs.daemon.mounts.records import start_of
from wbfs.model.errors import NameInvalid
from wbfs.model.runs import Run, parse_run
from wbfs.remote.credentials import is_same_server

MAX_PARENTS = 32
"""Processes that are looked at for one reader, itself and upwards."""
MAX_BYTES = 1 << 20
"""What is read of an environment."""
STATUS_BYTES = 4096
FILE_BYTES = 1 << 16
"""What is read of a file that tells of a process, or whose first line does."""
SERVICE = b"wandb-core\n"
_STATUS = re.compile(rb"\nTgid:\t(\d+)\n.*?\nPPid:\t(\d+)\n.*?\nUid:\t(\d+)\t", re.DOTALL)
_RUN_FOLDER = r"(/.*/(?:offline-)?run-[\d_]+-([^/]+))"
_DEBUG_LOG = re.compile(rf"{_RUN_FOLDER}(/logs/debug\.log)", re.DOTALL)
_TRANSACTION_LOG = re.compile(rf"{_RUN_FOLDER}(/run-[^/]+\.wandb)", re.DOTALL)
_LOGGED_BY = re.compile(rb":(\d+) \[")
_OWN_NUMBER = re.compile(rb"\nNSpid:.*\t(\d+)\n")


class Process(NamedTuple):
    """A process, the number of its parent, and whose it is."""

    pid: int
    parent: int
    uid: int


@dataclass(frozen=True, slots=True)
class _Look:
    """What a process is like: when it began, in clock ticks since the boot, if it hasn't ended."""

    started: int | None
    environ: Mapping[str, str]
    logs: frozenset[str]


class Readers:
    """What processes of this user are at one moment, for one server: each is looked at once."""

    def __init__(self, *, server: str, default_entity: str) -> None:
        """`server` is its URL; `default_entity` that of runs which were told none."""
        self._server = server
        self._default_entity = default_entity
        self._processes: dict[int, Process | None] = {}
        self._looks: dict[int, _Look] = {}

    def runs_of(self, kin: Sequence[Process]) -> frozenset[Run | str]:
        """Return the runs that a process belongs to; those of transaction logs by their paths.

        `kin` are the process and those that it comes from, as far as they are known already.
        There may be others later, unless its environment says that it is of no run.
        """
        named: tuple[str, Mapping[str, str]] | None = None
        for look in self._upwards(kin):
            if not self._may_have_runs(look.environ):
                return frozenset()
            own = look.environ.get("WANDB_RUN_ID", "")
            # A name that a process was given itself goes before the run that its parent has, but
            # for one that the parent has given to its own run, too.
            if named is not None and named[0] != own:
                shared = frozenset(log for log in look.logs if _is_named(log, named[0]))
                return shared or self._run_of(*named)
            if look.logs:
                return look.logs
            if own:
                named = named or (own, look.environ)
        return self._run_of(*named) if named else frozenset()

    def _upwards(self, kin: Sequence[Process]) -> Iterator[_Look]:
        """Yield a process and those that it comes from, as far as they are this user's."""
        known = list(kin)
        child_started: float = math.inf
        for number in range(MAX_PARENTS):
            if number == len(known):
                parent = self._process(known[-1].parent)
                if parent is None:
                    return
                known.append(parent)
            one = known[number]
            # A container's first process may be the trainer.
            if one.uid != os.getuid():
                return
            look = self._look_at(one.pid)
            # The number of one that has ended may be another's by now.
            if (look.started or 0) > child_started:
                return
            yield look
            child_started = child_started if look.started is None else look.started

    def _process(self, pid: int) -> Process | None:
        if pid not in self._processes:
            self._processes[pid] = _process_of(pid)
        return self._processes[pid]

    def _look_at(self, pid: int) -> _Look:
        if pid not in self._looks:
            self._looks[pid] = _Look(start_of(pid), _environ(pid), _logs_of(pid))
        return self._looks[pid]

    def _may_have_runs(self, environ: Mapping[str, str]) -> bool:
        """Whether it is one that may have runs, and those at this server."""
        if environ.get("WANDB_MODE") == "disabled":
            return False
        url = environ.get("WANDB_BASE_URL")
        return not url or is_same_server(url, self._server)

    def _run_of(self, name: str, environ: Mapping[str, str]) -> frozenset[Run | str]:
        """Return the run that an environment names; none where it doesn't say the project."""
        entity = environ.get("WANDB_ENTITY") or self._default_entity
        try:
            return frozenset({parse_run(f"{entity}/{environ.get('WANDB_PROJECT', '')}/{name}")})
        except NameInvalid:
            return frozenset()


def kin_of(thread: int) -> tuple[Process, ...]:
    """Return the process of a thread and its parent; none where it has ended or can't be seen.

    This takes 30 us, and waits for nothing: so it may be asked before a program's file is open, and
    a short-lived one is still there.
    """
    reader = _process_of(thread)
    parent = _process_of(reader.parent) if reader is not None else None
    return tuple(one for one in (reader, parent) if one is not None)


def _process_of(thread: int) -> Process | None:
    try:
        descriptor = os.open(f"/proc/{thread}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = _STATUS.search(os.read(descriptor, STATUS_BYTES))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return Process(*map(int, found.groups())) if found else None


def _environ(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty where it can't be seen."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            rows = file.read(MAX_BYTES).split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(row).partition("=") for row in rows if row.startswith(b"WANDB_"))
    return {name: value for name, _, value in pairs}


def _logs_of(pid: int) -> frozenset[str]:
    """Return the paths of the transaction logs of the runs that a process has open."""
    opened = dict(_written_by(pid, _DEBUG_LOG))
    # A fork that has begun a run of its own still has that of its parent open.
    own = _begun_by(pid, opened) if len(opened) > 1 else None
    return frozenset(own or opened or _logs_of_service(pid))


def _logs_of_service(pid: int) -> Iterator[str]:
    """Yield those of the runs that a process began which the SDK's service, its child, has open.

    Others of the service's are of processes that the process has started.
    """
    for child in _children(pid):
        if _read(f"/proc/{child}/comm") == SERVICE:
            yield from _begun_by(pid, dict(_written_by(child, _TRANSACTION_LOG)))


def _is_named(log: str, name: str) -> bool:
    """Whether a transaction log is of a run of that name; its path is taken from its folder's."""
    expected = f"{os.path.dirname(log)}/run-{name}.wandb"
    return log == expected or os.path.exists(expected)


def _begun_by(pid: int, folders: Mapping[str, str]) -> list[str]:
    """Return those of runs' transaction logs, given with their folders, that a process began."""
    own = _OWN_NUMBER.search(_read(f"/proc/{pid}/status"))
    found = []
    for log, folder in folders.items():
        began = _LOGGED_BY.search(_read(f"{folder}/logs/debug.log"))
        if own and began and own[1] == began[1]:
            found.append(log)
    return found


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def _read(path: str) -> bytes:
    """Return a file's first bytes; none where it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(FILE_BYTES)
    except OSError:
        return b""


def _written_by(pid: int, kind: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield of runs, of which a process writes a log of a kind, transaction logs and folders."""
    descriptors = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for number in os.listdir(descriptors):
            with contextlib.suppress(OSError):
                opened = f"{descriptors}/{number}"
                found = kind.fullmatch(os.readlink(opened))
                # Who only looks at it has no part in the run.
                if found and os.lstat(opened).st_mode & stat.S_IWUSR:
                    folder = _seen_from_here(pid, found[1], opened, found[3])
                    yield f"{folder}/run-{found[2]}.wandb", folder


def _seen_from_here(pid: int, folder: str, opened: str, inside: str) -> str:
    """Return the path by which this process finds the folder in which a process has a file open.

    `folder` is the path that the kernel tells, from the root of the process's mount namespace; the
    process's own root may be below that. What is in another mount namespace can be seen as long as
    the process is there. Raises OSError.
    """
    status = os.stat(opened)
    names = folder.split("/")[1:]
    theirs = (f"/proc/{pid}/root/{'/'.join(names[start:])}" for start in range(len(names)))
    for path in (folder, *theirs):
        # The SDK takes no folder that is not UTF-8.
        with contextlib.suppress(OSError, UnicodeEncodeError):
            path.encode()
            if os.path.samestat(status, os.stat(path + inside)):
                return path
    raise FileNotFoundError(errno.ENOENT, "can't be seen from here", folder)

"""What becomes of the processes that tests start: how orphans ended, and what is left running.

A process whose parent ends becomes a child of this one, see `adopt_orphans`. So a daemon's end can
be waited for though a command put it in the background, and what a program leaves running is found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mount_table import mounted

if TYPE_CHECKING:
    import pytest

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
END_TIMEOUT_S = 50.0
CRASHES = {
    -number
    for number in (
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
    )
}
"""Exit codes, as of `subprocess`, of programs that a signal ended which nobody sent."""
MARK = "STARTED_BY_TEST_AS"
# Python's own, which ends with the process that it belongs to.
RESOURCE_TRACKER = "multiprocessing.resource_tracker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process as it was when it was looked at; `settings` is its environment at its start."""

    pid: int
    command: str
    settings: Mapping[str, str]

    def __str__(self) -> str:
        """What it is, and which test started it."""
        test = self.settings.get("PYTEST_CURRENT_TEST", "?")
        return f"process {self.pid}, {self.command}; started by {test}"


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "can't become the parent of orphans")


def leave_others_mounts() -> None:
    """Have mounts of this process's own, where it may, as of every worker that runs tests.

    What tests beside these mount may hang, have any path, and come and go at any time; and a copy
    of what these mount, in another's namespace, would keep it from ending.
    """
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        # A container's root need not have the right to.
        return
    # Below a changed root it is of no use, and all are everybody's as before.
    libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for yet has ended too."""
    try:
        return _stat(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def exit_code(pid: int) -> int | None:
    """Return how a child ended, as `subprocess` tells it, or None while it runs.

    It is forgotten with that: raises ChildProcessError where it is none of ours any more.
    """
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def crashed_orphans() -> list[str]:
    """Forget all children that have ended; return what is to be said of those that crashed."""
    crashed = []
    with contextlib.suppress(ChildProcessError):
        while True:
            # The name is gone with the process.
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                break
            name = Path(f"/proc/{found.si_pid}/comm").read_text(errors="replace").strip()
            code = exit_code(found.si_pid)
            if code in CRASHES:
                crashed.append(f"process {found.si_pid}, {name}, ended by {_signal_name(code)}")
    return crashed


def describe_end(code: int) -> str:
    """Return an exit code in words."""
    return f"ended by {_signal_name(code)}" if code < 0 else f"exited with {code}"


def _signal_name(code: int) -> str:
    return signal.Signals(-code).name


def descendants() -> list[Process]:
    """Return the processes that this one started, and theirs, as far as they run."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, parent = _stat(int(entry.name))[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found: list[Process] = []
    pids = [os.getpid()]
    while pids:
        below = children.get(pids.pop(), [])
        pids += below
        found += filter(None, map(_look_at, below))
    return [one for one in found if RESOURCE_TRACKER not in one.command]


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on; raises FileNotFoundError."""
    # The program's name may have anything in it.
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _look_at(pid: int) -> Process | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        settings = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        # It has ended meanwhile.
        return None
    rows = (os.fsdecode(row).partition("=") for row in settings.split(b"\0"))
    return Process(
        pid=pid,
        command=os.fsdecode(command.replace(b"\0", b" ")).strip(),
        settings={name: value for name, _, value in rows},
    )


@contextmanager
def leaving_none(env: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Yield an environment; what still runs of the programs that got it is ended afterwards.

    env: what it has beside that; None is this process's own.
    """
    mark = uuid.uuid4().hex
    try:
        yield {**(os.environ if env is None else env), MARK: mark}
    finally:
        end([one for one in descendants() if one.settings.get(MARK) == mark])


def end(processes: list[Process]) -> None:
    """End processes, by force if it must be."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for one in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, number)
        deadline = time.monotonic() + END_TIMEOUT_S
        while time.monotonic() < deadline:
            processes = [one for one in processes if is_running(one.pid)]
            if not processes:
                return
            time.sleep(0.02)
    raise AssertionError(f"can't be ended: {', '.join(map(str, processes))}")


def mounts_below(folder: Path) -> list[Path]:
    """Return what is mounted below a folder, the latest first."""
    found = [row.path for row in mounted() if row.path.is_relative_to(folder)]
    return found[::-1]


def note_starts(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Return the processes that this one starts from now on, as they come."""
    found: list[subprocess.Popen[bytes]] = []
    normal = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        found.append(normal(*args, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return found

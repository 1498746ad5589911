"""Whether a mount answers, asked from a process that can be left behind: it may wait for ever."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from enum import Enum
from pathlib import Path

LOOK_TIMEOUT_S = 5.0
"""Seconds after which a mount that doesn't answer is said to hang."""
REAP_TIMEOUT_S = 1.0

# Not stat, which the kernel answers from memory.
_LOOK = """
import os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit(error.errno)
"""


class Health(Enum):
    """How a mount is; DEAD where no daemon is behind it any more."""

    SERVES = "serves"
    DEAD = "dead"
    HANGS = "hangs"


def health_of(mountpoint: Path) -> Health:
    """Return how the mount at `mountpoint` is, within LOOK_TIMEOUT_S and a little."""
    failure = _statvfs_apart(mountpoint)
    if failure is None:
        return Health.HANGS
    return Health.DEAD if failure in (errno.ENOTCONN, errno.ECONNABORTED) else Health.SERVES


def _statvfs_apart(path: Path) -> int | None:
    """Return the errno of statvfs, 0 for none, or None where it doesn't answer in time."""
    # Nothing of ours is open there, so that nobody waits for what is left behind.
    streams = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    program = [sys.executable, "-I", "-S", "-c", _LOOK, os.fspath(path)]
    child = os.posix_spawn(sys.executable, program, os.environ, file_actions=streams, setpgroup=0)
    if ends(child, LOOK_TIMEOUT_S):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.kill(child, signal.SIGKILL)
    # What the daemon took and did not answer can't be killed: it goes when the mount does.
    if ends(child, REAP_TIMEOUT_S):
        os.waitpid(child, 0)
    return None


def ends(pid: int, timeout_s: float) -> bool:
    """Wait for a process to end; return whether it did in time."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return has_ended(process, timeout_s)
    finally:
        os.close(process)


def has_ended(process: int, timeout_s: float) -> bool:
    """Wait for the process behind a descriptor to end; return whether it did in time."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))

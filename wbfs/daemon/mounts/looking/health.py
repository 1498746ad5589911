"""How a mount is, asked from a process that can be left behind: it may wait for ever."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

LOOK_TIMEOUT_S = 5.0
"""Seconds after which a mount that doesn't answer is said to hang."""
REAP_TIMEOUT_S = 1.0
ANSWER_BYTES = 16 << 20
"""What is taken of an answer."""

_ASKING = Path(__file__).with_name("asking.py")


class Health(StrEnum):
    """How a mount is; DEAD where no daemon is behind it any more."""

    SERVES = "serving"
    NOT_MOUNTED = "not mounted"
    DEAD = "dead"
    HANGS = "hung"


def health_of(mountpoint: Path) -> Health:
    """Return how the mount at `mountpoint` is, within LOOK_TIMEOUT_S and a little."""
    question = Question(mountpoint)
    try:
        question.wait(time.monotonic() + LOOK_TIMEOUT_S)
        return question.health
    finally:
        question.close()


class Question:
    """What a mount was asked, and whether it `is_over`: answered, or never will be.

    `asked_s` is when, by the monotonic clock.
    `close` leaves the process that waits for the answer behind.
    """

    def __init__(
        self,
        path: Path,
        what: str = "",
        *,
        owner: tuple[int, int] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        """Ask the mount at `path`: "status" for what its status.json says.

        Or "shows", with `more` a path below it and an artifact's id: whether that is the artifact,
        once the mount has looked again. `owner` is the user and the group who alone may ask it,
        whom root may be.
        """
        self._answer = os.memfd_create("answer")
        self.is_over = False
        self.asked_s = time.monotonic()
        # Nothing of ours is open there, so that nobody waits for what is left behind.
        streams = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 2)]
        program = [sys.executable, "-I", "-S", os.fspath(_ASKING), os.fspath(path), what]
        program.append("" if owner is None else f"{owner[0]}:{owner[1]}")
        program += more
        self._child = os.posix_spawn(
            sys.executable,
            program,
            os.environ,
            file_actions=[*streams, (os.POSIX_SPAWN_DUP2, self._answer, 1)],
            setpgroup=0,
        )

    def wait(self, until_s: float) -> None:
        """Wait for the answer until that moment of the monotonic clock, or only look."""
        if not self.is_over and ends(self._child, max(0.0, until_s - time.monotonic())):
            os.waitpid(self._child, 0)
            self.is_over = True

    @property
    def health(self) -> Health:
        """How the mount is, as far as it is known by now."""
        if not self.is_over:
            return Health.HANGS
        is_dead = self.answer.get("errno") in (errno.ENOTCONN, errno.ECONNABORTED)
        return Health.DEAD if is_dead else Health.SERVES

    @property
    def answer(self) -> dict[str, Any]:
        """What was answered; empty where nothing was."""
        try:
            found = json.loads(os.pread(self._answer, ANSWER_BYTES, 0)) if self.is_over else {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def status(self) -> dict[str, Any]:
        """What the mount says of itself, which may be anything; empty where it says nothing."""
        try:
            found = json.loads(self.answer.get("status") or "{}")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Let go of it, whether or not there is an answer."""
        os.close(self._answer)
        if not self.is_over:
            self.is_over = leave_behind(self._child)


def leave_behind(child: int) -> bool:
    """Kill a child process that waits for a mount, and return whether it has ended.

    What the daemon took and did not answer can't be killed: it goes when the mount does.
    """
    os.kill(child, signal.SIGKILL)
    has_ended = ends(child, REAP_TIMEOUT_S)
    if has_ended:
        os.waitpid(child, 0)
    return has_ended


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

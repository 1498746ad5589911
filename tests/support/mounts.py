"""Real mounts for tests: the daemon in a process of its own, taken down whatever happens."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import prepared
import processes

COMMAND_TIMEOUT_S = 50.0
"""Long, since the machine may be busy; but no program is to wait for the 60 s of wbfs mount's
--timeout unnoticed. It holds for all that is waited for without another limit."""
QUIET_S = 0.5
WBFS = (sys.executable, "-m", "wbfs.cli.main")
DEFECTS = re.compile(
    r".*(Traceback \(most recent call last\)|Fatal Python error|\bdefect\b|ended at once; see).*"
)
"""What nothing of ours may log or say."""


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a program with a time limit; its output is text.

    What it leaves running is ended with it, but what wbfs puts in the background on purpose. One of
    wbfs must not crash, nor end with a traceback.
    """
    if command[: len(WBFS)] != WBFS:
        with processes.leaving_none(env) as marked:
            return _run(command, marked, timeout_s)
    done = _run(command, env, timeout_s)
    assert done.returncode not in processes.CRASHES, processes.describe_end(done.returncode)
    assert not DEFECTS.search(done.stderr), done.stderr
    return done


def _run(
    command: Sequence[str | Path], env: Mapping[str, str] | None, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
    )


def check(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> str:
    """Run a program that must succeed; return what it prints."""
    done = run(*command, env=env, timeout_s=timeout_s)
    assert done.returncode == 0, f"{command} exited with {done.returncode}: {done.stderr}"
    return done.stdout


def wait_until(condition: Any, *, timeout_s: float = COMMAND_TIMEOUT_S, what: str) -> None:
    """Poll until `condition()` is true; fail with `what` after the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Mount:
    """A mounted wbfs."""

    def __init__(
        self,
        *,
        path: Path,
        env: Mapping[str, str],
        cache_dir: Path,
        log_file: Path,
        source: str = "",
        options: Sequence[str] = (),
        program: Sequence[str] | None = WBFS,
        may_log_defects: bool = False,
    ) -> None:
        """Run `wbfs mount` and return once it does; raises AssertionError with what it says.

        program: what runs as wbfs; None is a fork of a process that has imported its modules.
        may_log_defects: the test makes defects of its own, which `take_down` is not to find.
        """
        self.path = path
        self.env = env
        self.cache_dir = cache_dir
        self.log_file = log_file
        self._may_log_defects = may_log_defects
        self._exit_code: int | None = None
        self._is_killed = False
        path.mkdir(exist_ok=True)
        words = ["mount", "--cache-dir", str(cache_dir), "--log-file", str(log_file)]
        words += [*options, *([source] if source else []), str(path)]
        if program is None:
            self.started = prepared.run_wbfs(*words, env=env, timeout_s=COMMAND_TIMEOUT_S)
        else:
            self.started = _run([*program, *words], env, COMMAND_TIMEOUT_S)
        assert self.started.returncode == 0, self.started.stderr + self.log()
        try:
            self.pid: int = self.status()["pid"]
        except BaseException:
            self._detach()
            raise

    def status(self) -> dict[str, Any]:
        """What status.json says."""
        status: dict[str, Any] = json.loads((self.path / ".wbfs/status.json").read_text())
        return status

    def wait_until_idle(self, *, timeout_s: float = COMMAND_TIMEOUT_S) -> dict[str, Any]:
        """Wait until nothing is fetched, nor about to be; return the status then."""
        quiet_since_s: float | None = None
        status: dict[str, Any] = {}

        def is_idle() -> bool:
            nonlocal quiet_since_s, status
            status = self.status()
            at_rest = not any(status["busy_threads"].values())
            at_rest = at_rest and not any(one["on_their_way_bytes"] for one in status["prefetch"])
            if not at_rest or status["fetched"]["in_progress"]:
                quiet_since_s = None
                return False
            now_s = time.monotonic()
            quiet_since_s = now_s if quiet_since_s is None else quiet_since_s
            # Between the steps of a plan nothing may seem to be going on.
            return now_s - quiet_since_s > QUIET_S

        wait_until(is_idle, timeout_s=timeout_s, what=f"nothing is fetched on {self.path}")
        return status

    def errors(self) -> list[dict[str, str]]:
        """What errors.jsonl says, oldest first."""
        lines = (self.path / ".wbfs/errors.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def log(self) -> str:
        """The daemon's log so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def umount(self) -> None:
        """Run `wbfs umount`, which must succeed."""
        check(*WBFS, "umount", self.path, env=self.env)

    def is_alive(self) -> bool:
        """Whether the daemon still runs."""
        if self._exit_code is None:
            self._exit_code = processes.exit_code(self.pid)
        return self._exit_code is None

    def kill(self) -> None:
        """End the daemon as a crash would."""
        self._is_killed = True
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not self.is_alive(), what="the killed daemon is gone")

    def take_down(self) -> None:
        """Leave nothing behind, whatever state the mount is in.

        Raises AssertionError where the daemon did not end by itself, whatever the test looked at:
        by a signal that was not that of `kill`, or never; and where its log tells of a defect.
        """
        self._detach()
        if self.is_alive():
            os.kill(self.pid, signal.SIGTERM)
        try:
            wait_until(lambda: not self.is_alive(), what="the daemon ends")
        finally:
            if self.is_alive():
                self.kill()
        assert self._exit_code is not None
        assert self._is_killed or self._exit_code >= 0, (
            f"the daemon of {self.path} {processes.describe_end(self._exit_code)}"
        )
        defect = DEFECTS.search(self.log())
        assert self._may_log_defects or not defect, (
            f"the daemon of {self.path} logged a defect: {defect and defect[0]}"
        )

    def _detach(self) -> None:
        """Unmount by whatever means: the daemon ends when nobody uses it any more."""
        _run(["fusermount3", "-u", "-z", self.path], None, COMMAND_TIMEOUT_S)

"""Real mounts for tests: the daemon in a process of its own, taken down whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND_TIMEOUT_S = 30.0
WBFS = (sys.executable, "-m", "wbfs.cli.main")


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a program with a time limit; its output is text."""
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


def wait_until(condition: Any, *, timeout_s: float = 10.0, what: str) -> None:
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
        program: Sequence[str] = WBFS,
    ) -> None:
        """Run `wbfs mount` and return once it does; raises AssertionError with what it says."""
        self.path = path
        self.env = env
        self.cache_dir = cache_dir
        self.log_file = log_file
        path.mkdir(exist_ok=True)
        command = [*program, "mount", "--cache-dir", str(cache_dir), "--log-file", str(log_file)]
        self.started = run(*command, *options, *([source] if source else []), path, env=env)
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

    def errors(self) -> list[dict[str, str]]:
        """What errors.jsonl says, oldest first."""
        lines = (self.path / ".wbfs/errors.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def log(self) -> str:
        """The daemon's log so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def umount(self) -> None:
        """Run `wbfs umount`, which must succeed."""
        check(*WBFS, "umount", self.path)

    def is_alive(self) -> bool:
        """Whether the daemon's process is still there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        # A zombie has ended too; in a container nobody may wait for it.
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def kill(self) -> None:
        """End the daemon as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not self.is_alive(), what="the killed daemon is gone")

    def take_down(self) -> None:
        """Leave nothing behind, whatever state the mount is in."""
        self._detach()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.is_alive(), timeout_s=5, what="the daemon ends")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _detach(self) -> None:
        """Unmount by whatever means: the daemon ends when nobody uses it any more."""
        run("fusermount3", "-u", "-z", self.path)

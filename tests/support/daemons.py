"""`wbfs mount -f` as a test's child, so that it is known how it ends; never left behind."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from mount_table import mounted_at
from mounts import COMMAND_TIMEOUT_S, WBFS, run, wait_until
from stand_in import StandIn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
END_TIMEOUT_S = COMMAND_TIMEOUT_S


class Daemon:
    """`wbfs mount -f` as a child, so that it is known how it ends."""

    def __init__(self, path: Path, stand_in: StandIn, *options: str | Path) -> None:
        """Start it; it need not have mounted yet."""
        self.path = path
        self.log_file = path.with_name(f"{path.name}.log")
        if not is_mounted(path):
            path.mkdir(exist_ok=True)
        command = [*WBFS, "mount", "-f", "--cache-dir", path.with_name("cache"), *options, path]
        self.env = stand_in.env(path.with_name("home"))
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text()

    def wait_until_mounted(self) -> None:
        """Return once it says that it is mounted."""
        wait_until(
            lambda: "is mounted on" in self.log() or self.process.poll() is not None,
            what="it is mounted",
        )
        assert self.process.poll() is None, self.log()

    def wait_until_signals_are_noted(self) -> None:
        """Return once no signal ends the process by itself any more; there may be no mount yet."""
        wait_until(self._catches_all, what="it takes care of signals")

    def _catches_all(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return all(caught >> (number - 1) & 1 for number in SIGNALS)

    def umount(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run `wbfs umount`, as its user."""
        return run(*WBFS, "umount", *options, self.path, env=self.env)

    def exit_code(self) -> int:
        """Wait for its end; a negative number is the signal that ended it."""
        return self.process.wait(END_TIMEOUT_S)

    def take_down(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(END_TIMEOUT_S)
        run("fusermount3", "-u", "-z", self.path)
        print(f"--- log of {self.path}:\n{self.log()}")


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there."""
    return bool(mounted_at(path))

"""A mount comes down whatever ends it, and its daemon never crashes: it ends with an exit code."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mounts import WBFS, check, run, wait_until
from stand_in import StandIn

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
END_TIMEOUT_S = 30.0
WAYS = ("umount", "lazy umount", *SIGNALS)


class Daemon:
    """`wbfs mount -f` as a child, so that it is known how it ends."""

    def __init__(self, path: Path, stand_in: StandIn, *options: str | Path) -> None:
        """Start it; it need not have mounted yet."""
        self.path = path
        self.log_file = path.with_name(f"{path.name}.log")
        path.mkdir(exist_ok=True)
        command = [*WBFS, "mount", "-f", "--cache-dir", path.with_name("cache"), *options, path]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env=stand_in.env(path.with_name("home")),
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
            timeout_s=END_TIMEOUT_S,
            what="it is mounted",
        )
        assert self.process.poll() is None, self.log()

    def wait_until_signals_are_noted(self) -> None:
        """Return once no signal ends the process by itself any more; there may be no mount yet."""
        wait_until(self._catches_all, timeout_s=END_TIMEOUT_S, what="it takes care of signals")

    def _catches_all(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return all(caught >> (number - 1) & 1 for number in SIGNALS)

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


Starter = Callable[..., Daemon]


@pytest.fixture
def start(stand_in: StandIn, tmp_path: Path) -> Iterator[Starter]:
    """Return what starts daemons in front: start(*options)."""
    daemons: list[Daemon] = []

    def start_one(*options: str | Path, path: Path = tmp_path / "mount") -> Daemon:
        daemon = Daemon(path, stand_in, *options)
        daemons.append(daemon)
        return daemon

    yield start_one
    for daemon in daemons:
        daemon.take_down()


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there, by the kernel's table: a dead mount can't be asked."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return str(path) in [line.split()[4] for line in lines]


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.timeout(90)
def test_ends_in_any_order(start: Starter, seed: int) -> None:
    chance = random.Random(seed)
    daemon = start()
    if chance.random() < 0.6:
        daemon.wait_until_mounted()
    else:
        daemon.wait_until_signals_are_noted()
        time.sleep(chance.uniform(0, 0.5))
    for way in chance.choices(WAYS, k=chance.randint(2, 5)):
        if isinstance(way, signal.Signals):
            daemon.process.send_signal(way)
        else:
            run("fusermount3", "-u", *(["-z"] if way == "lazy umount" else []), daemon.path)
        time.sleep(chance.choice((0, 0, 0.001, 0.01, 0.1)))
    # A way that is refused, since the mount is in use, ends nothing.
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.exit_code() == 0, daemon.log()
    assert not is_mounted(daemon.path)
    assert "Traceback" not in daemon.log()


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_unmounts(start: Starter, number: signal.Signals) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    daemon.process.send_signal(number)
    assert daemon.exit_code() == 0
    assert not is_mounted(daemon.path)
    assert f"{number.name}: unmounting" in daemon.log()


def test_a_signal_at_once_after_a_lazy_umount(start: Starter) -> None:
    for _ in range(5):
        daemon = start()
        daemon.wait_until_mounted()
        check("fusermount3", "-u", "-z", daemon.path)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.exit_code() == 0, daemon.log()


def test_signals_without_end(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    deadline = time.monotonic() + END_TIMEOUT_S
    while daemon.process.poll() is None:
        assert time.monotonic() < deadline, daemon.log()
        for number in SIGNALS:
            daemon.process.send_signal(number)
        time.sleep(0.001)
    assert daemon.process.returncode == 0, daemon.log()
    assert not is_mounted(daemon.path)

"""Going into the background: what the parent is told, and what becomes of the child without one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from wbfs.daemon.background import run_in_background
from wbfs.daemon.exit_codes import FailedBehind
from wbfs.model.errors import WbfsError

TIMEOUT_S = 100.0
POLL_S = 0.01


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(POLL_S)


def test_an_error_before_it_is_ready_is_told(tmp_path: Path) -> None:
    def run(on_ready: Callable[[], None]) -> None:
        raise WbfsError("no server")

    with pytest.raises(FailedBehind, match="no server"):
        run_in_background(run, what="it", log_file=tmp_path / "log", timeout_s=TIMEOUT_S)


def test_an_error_afterwards_is_written_to_no_other_file(tmp_path: Path) -> None:
    database = tmp_path / "database"
    database.write_bytes(b"its header")
    files: list[BinaryIO] = []

    def run(on_ready: Callable[[], None]) -> None:
        on_ready()
        # One of them gets the number that the pipe to the parent had.
        files.extend(database.open("r+b") for _ in range(8))
        raise WbfsError("the mount was lost")

    run_in_background(run, what="it", log_file=tmp_path / "log", timeout_s=TIMEOUT_S)
    os.wait()
    assert database.read_bytes() == b"its header"


def test_without_whoever_started_it_it_ends(tmp_path: Path) -> None:
    began, orphaned, told = (tmp_path / name for name in ("began", "orphaned", "told"))

    def run(on_ready: Callable[[], None]) -> None:
        began.touch()
        signal.signal(signal.SIGTERM, lambda number, frame: told.touch())
        wait_for(orphaned)
        on_ready()

    parent = os.fork()
    if not parent:
        run_in_background(run, what="it", log_file=tmp_path / "log", timeout_s=TIMEOUT_S)
        os._exit(0)
    wait_for(began)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    orphaned.touch()
    wait_for(told)

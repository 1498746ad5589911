"""Run a program, or a command, under the real wandb SDK, in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import prepared
import processes

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT_S = 200.0


def run_program(name: str, environment: Mapping[str, str], folder: Path, *arguments: str) -> Any:
    """Run `programs/<name>.py` in `folder`; return the JSON that it writes.

    A program gets the path of its result as its first argument, then `arguments`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / f"{name}.json"
    done = prepared.run_sdk(
        PROGRAMS / f"{name}.py",
        result,
        *arguments,
        env=environment,
        folder=folder,
        timeout_s=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(result.read_text("utf-8"))


def run_command(command: list[str], environment: Mapping[str, str], folder: Path) -> str:
    """Run a command that has to succeed; return what it printed, errors and all.

    What it leaves running is ended.
    """
    with processes.leaving_none(environment) as marked:
        done = subprocess.run(
            command,
            env=marked,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    return done.stdout

"""Run a program under the real wandb SDK, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import processes

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT_S = 90.0


def run_program(name: str, environment: Mapping[str, str], folder: Path, *arguments: str) -> Any:
    """Run `programs/<name>.py` in `folder`; return the JSON that it writes.

    A program gets the path of its result as its first argument, then `arguments`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / f"{name}.json"
    program = str(PROGRAMS / f"{name}.py")
    run_command([sys.executable, program, str(result), *arguments], environment, folder)
    return json.loads(result.read_text("utf-8"))


def run_command(command: list[str], environment: Mapping[str, str], folder: Path) -> str:
    """Run a command that has to succeed; return what it printed."""
    return processes.output_of(command, environment, folder, timeout_s=TIMEOUT_S)

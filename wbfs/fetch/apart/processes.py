"""What programs of wbfs in processes of their own have in common: how they start, and fail."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import wbfs
from wbfs.model import errors
from wbfs.model.errors import WbfsError
from wbfs.model.text import LineFormatter
from wbfs.remote.bytes import ObjectMissing


def command(program: ModuleType) -> list[str]:
    """Return what runs a module of wbfs as a program."""
    return [sys.executable, "-m", program.__name__]


def surroundings() -> dict[str, Any]:
    """Return where such a program runs, as `subprocess.Popen` takes it: it gets no W&B settings."""
    return {
        # Where this wbfs is, whether or not it is installed.
        "cwd": Path(wbfs.__file__).parents[1],
        "env": {name: text for name, text in os.environ.items() if not name.startswith("WANDB")},
        # Ctrl-C at the terminal is for the mount, which ends it.
        "process_group": 0,
    }


def log_to_stderr() -> None:
    """Have such a program log what goes wrong to where its mount does, a line an event."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def error_of(kind: str, text: str) -> WbfsError:
    """Return the error that a program names by its class, with its text."""
    kinds: dict[str, type[WbfsError]] = {**vars(errors), ObjectMissing.__name__: ObjectMissing}
    return kinds[kind](text)

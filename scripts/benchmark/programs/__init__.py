"""Programs that read, or serve, in a process of their own; here is what starts those that read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmark.samples import Failed, Sample

PROJECT, READERS_RUN = "bench", "reader"
"""What those that read are a run of, for mounts that look whose inputs it is."""
READER = Path(__file__).with_name("reader.py")
LOADER = Path(__file__).with_name("loader.py")
PARTS = Path(__file__).with_name("parts.py")
DAEMON = Path(__file__).with_name("daemon.py")
LEAST = Path(__file__).with_name("least.py")
LEAST_GET = Path(__file__).with_name("least_get.py")
LEAST_BATCH = Path(__file__).with_name("least_batch.py")
LIMIT_S = 300.0
"""Of one reading."""
LONG_LIMIT_S = 1500.0
"""Of reading tens of thousands of files over the link."""


def read(how: str, path: Path, **arguments: object) -> Sample:
    """Let a process of its own read as `reader` describes. Raises Failed."""
    return _run(READER, {"how": how, "path": str(path), **arguments}, LIMIT_S)


def load(how: str, path: Path, **arguments: object) -> Sample:
    """Let a process of its own read as `loader` describes. Raises Failed."""
    return _run(LOADER, {"how": how, "path": str(path), **arguments}, LONG_LIMIT_S)


def step(how: str, **arguments: object) -> Sample:
    """Let a process of its own do what `parts` describes. Raises Failed."""
    return _run(PARTS, {"how": how, **arguments}, LIMIT_S)


def _run(program: Path, what: Mapping[str, object], limit_s: float) -> Sample:
    process = subprocess.Popen(
        [sys.executable, "-I", str(program), json.dumps(what)],
        env=os.environ | {"WANDB_PROJECT": PROJECT, "WANDB_RUN_ID": READERS_RUN},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{program.name} takes longer than {limit_s:.0f} s: {what}") from error
    finally:
        # Not waited for: what hangs in a mount ends when the mount does.
        process.kill()
    if process.returncode:
        raise Failed(f"{program.name} fails: {what}: {errors.strip().rpartition(chr(10))[2]}")
    return sample_of(output)


def sample_of(output: str) -> Sample:
    """Return the sample that a program has printed as JSON."""
    figures: dict[str, float] = json.loads(output)
    return Sample(
        seconds=figures.pop("seconds"),
        bytes=int(figures.pop("bytes", 0)),
        count=int(figures.pop("count", 0)),
        more=figures,
    )

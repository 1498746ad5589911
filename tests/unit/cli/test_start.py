"""What a command imports when it starts, and what Python does when it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import wbfs

OF_ONE_COMMAND = {
    "ariadne",
    "botocore",
    "importlib.resources",
    "prometheus_client",
    "pyfuse3",
    "requests",
    "rich",
    "starlette",
    "tqdm",
    "trio",
    "uvicorn",
    "wandb",
}
"""What no command needs before it does something."""


def printed(program: str, *arguments: str) -> str:
    """Return what a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        cwd=Path(wbfs.__file__).parents[1],
    )
    return done.stdout


@pytest.mark.parametrize(
    ("modules", "needed"),
    [
        ("wbfs.cli.main", set()),
        ("wbfs.cli.main, wbfs.daemon.mounts.taking_down", set()),
        ("wbfs.cli.main, wbfs.cli.mounts.status_words", set()),
        ("wbfs.cli.main, wbfs.cli.files.bulk", {"importlib.resources", "requests", "trio"}),
    ],
)
def test_what_others_need_is_not_imported(modules: str, needed: set[str]) -> None:
    others = OF_ONE_COMMAND - needed
    assert printed(f"import sys, {modules}; print({others!r} & set(sys.modules))") == "set()\n"


def test_no_garbage_is_looked_for_at_the_end() -> None:
    program = (
        "import atexit, gc; atexit.register(lambda: print(len(gc.get_objects())));"
        "from wbfs.cli.main import main; main()"
    )
    *_, left = printed(program, "--version").split()
    assert int(left) < 1000

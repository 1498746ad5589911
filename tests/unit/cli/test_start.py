"""What a command imports when it starts, and what Python does when it ends."""

from __future__ import annotations

import os
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


def printed(program: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Return what a Python of its own prints, with this environment or another one."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=env,
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


def test_a_mount_looks_for_no_garbage_in_what_was_imported(tmp_path: Path) -> None:
    program = (
        "import gc, trio; trio.run = lambda *_: print(len(gc.get_objects()));"
        "from wbfs.cli.main import main; main()"
    )
    (tmp_path / "mountpoint").mkdir()
    words = ["mount", "-f", "--cache-dir", tmp_path / "cache", tmp_path / "mountpoint"]
    env = dict(os.environ, WANDB_API_KEY="k" * 40, WANDB_BASE_URL="http://127.0.0.1:1")
    assert int(printed(program, *map(str, words), env=env)) < 1000

"""Whatever is done to a mount, its server and its cache: right bytes, or an error that is true."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from steps import run_steps
from world import World

pytestmark = pytest.mark.fuse

NUMBER = 7
STEPS = 12


@pytest.mark.parametrize("verify_always", [False, True], ids=["complete", "always"])
def test_random_steps(tmp_path: Path, verify_always: bool) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    run_steps(World(tmp_path, verify_always=verify_always), number=NUMBER, steps=STEPS)

"""Whatever is done to a mount, its server and its cache: right bytes, or an error that is true."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import seed
from hypothesis.stateful import run_state_machine_as_test
from machine import Machine, of_steps
from world import World

pytestmark = pytest.mark.fuse

SEED = 7


@pytest.mark.timeout(240)
@pytest.mark.parametrize("verify_always", [False, True], ids=["complete", "always"])
def test_random_steps(tmp_path: Path, verify_always: bool) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")

    class Here(Machine):
        make_world = staticmethod(lambda: World(tmp_path, seed=SEED, verify_always=verify_always))

    run_state_machine_as_test(seed(SEED)(Here), settings=of_steps(20))

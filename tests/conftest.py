"""Fixtures that most tests share: the stand-in server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_in import StandIn


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Return a stand-in server that all tests share; names that they log must differ."""
    server = StandIn(tmp_path_factory.mktemp("stand-in"))
    yield server
    server.stop()


@pytest.fixture
def fresh_stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """Return a stand-in server of this test's own."""
    server = StandIn(tmp_path / "stand-in")
    yield server
    server.stop()
    # pytest shows it where the test failed.
    print(server.log())

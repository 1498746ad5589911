"""Fixtures that most tests share: the stand-in server."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from stand_in import StandIn


def pytest_configure() -> None:
    """Let `kill -USR1` show where a hung test is; pytest's own time limit shows it too."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what its servers printed and were asked last."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, server in item.funcargs.items():
            if isinstance(server, StandIn):
                report.sections.append((f"{name}: log", server.log()))
                report.sections.append((f"{name}: last requests", server.last_requests()))
    return report

"""Fixtures that most tests share, and what holds for each: nothing crashes, nothing is left."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import prepared
import processes
import pytest
from hypothesis import HealthCheck, settings
from mounts import DEFECTS, run, wait_until
from stand_in import StandIn

LONG = ("fuse", "model", "unit/devserver", "unit/fetch", "unit/remote")
"""Folders of files that take long. They come first, so that none of them is what ends last."""


def pytest_configure() -> None:
    """Prepare this process for tests, each of xdist's too.

    `kill -USR1` shows where a hung test is; pytest's own time limit shows it too.
    """
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    processes.adopt_orphans()
    processes.leave_others_mounts()
    # A busy machine may take long for an example.
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")
    # As with an installed wbfs: without it each of a thousand commands would compile all modules.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those first whose files take long; all else stays in its order."""
    long = [Path(__file__).parent / folder for folder in LONG]
    items.sort(key=lambda item: not any(folder in item.path.parents for folder in long))


def pytest_unconfigure() -> None:
    """End what is left where a process of the tests died and could not."""
    processes.end(processes.descendants())


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail where a process still runs, or something is still mounted, after all tests."""
    yield
    prepared.end()
    # Fixtures have ended what they started; what ends with it may take a moment.
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not processes.descendants(), what="all have ended")
    running = processes.descendants()
    processes.end(running)
    mounted = processes.mounts_below(tmp_path_factory.getbasetemp())
    for path in mounted:
        run("umount", "-l", path)
    left = [*map(str, running), *(f"a mount on {path}" for path in mounted)]
    assert not left, f"left by the tests: {', '.join(left)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that leaves a process that crashed, or a log that tells of a defect."""
    try:
        yield
    finally:
        crashed = processes.crashed_orphans()
        assert not crashed, crashed
    if isinstance(item, pytest.Function) and "tmp_path" in item.funcargs:
        # Where what goes into the background logs, if it isn't told another place.
        for log in item.funcargs["tmp_path"].glob("*/state/wbfs/*.log"):
            assert not DEFECTS.search(log.read_text()), log.read_text()


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

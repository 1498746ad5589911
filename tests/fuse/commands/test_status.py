"""`wbfs status` says how mounts are, and never hangs itself."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from daemons import Daemon
from mounts import WBFS, Mount, run
from stand_in import StandIn

from wbfs.daemon.mounts.looking.health import Health
from wbfs.daemon.mounts.looking.survey import Survey

LOOK_S = 15.0
"""Long enough for a mount that serves, however busy the machine is."""


@pytest.fixture(scope="module")
def mount(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """Return a mount that all tests here look at."""
    folder = tmp_path_factory.mktemp("status")
    mounted = Mount(
        path=folder / "mount",
        env=stand_in.env(folder / "home"),
        cache_dir=folder / "cache",
        log_file=folder / "mount.log",
        options=("--allow-other", "--timeout", "10"),
        program=None,
    )
    yield mounted
    mounted.take_down()


def status(mount: Mount | Daemon, *words: str | Path) -> CompletedProcess[str]:
    return run(*WBFS, "status", "--timeout", str(LOOK_S), *words, env=mount.env)


def document(done: CompletedProcess[str], path: Path) -> dict[str, Any]:
    [one] = [one for one in json.loads(done.stdout) if one["path"] == str(path)]
    return one


def test_a_mount_that_serves(mount: Mount, stand_in: StandIn, tmp_path: Path) -> None:
    done = status(mount, mount.path)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == f"{mount.path}: serving"
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in rest}
    assert rows["source"] == f"everything, of {stand_in.base_url}, as admin"
    assert rows["daemon"].startswith(f"process {mount.pid}, for ")
    assert rows["daemon"].endswith(f"logs to {mount.log_file}")
    assert rows["cache"].startswith(f"{mount.cache_dir}: ")
    # By whatever way to it.
    (tmp_path / "link").symlink_to(mount.path.parent)
    done = status(mount, "--json", tmp_path / "link/mount/../mount/.")
    assert done.returncode == 0, done.stderr
    found = document(done, mount.path)
    assert found["state"] == "serving"
    assert found["source"] == ""
    assert found["pid"] == mount.pid
    assert found["connection"] == os.minor(mount.path.stat().st_dev)
    assert found["status"]["device"] == f"0:{found['connection']}"


def test_all_mounts(mount: Mount) -> None:
    done = status(mount, "--json")
    assert document(done, mount.path)["state"] == "serving"


def test_without_its_server(mount: Mount, stand_in: StandIn) -> None:
    with stand_in.faults(port="api", error_share=1.0, error_status=500):
        run("ls", mount.path / "nobody-has-asked-for-this")
        done = status(mount, mount.path)
        assert done.returncode == 0
        assert f"{mount.path}: serving, without its server since " in done.stdout
        assert status(mount, "--strict", mount.path).returncode == 6
    run("ls", mount.path / "nor-for-this")
    assert status(mount, "--strict", mount.path).returncode == 0


def test_where_nothing_is_mounted(mount: Mount, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        done = status(mount, path)
        assert done.returncode == 3
        assert done.stdout == f"{path}: not mounted\n"
    # What is mounted there is none of wbfs; nor is a path below a mount one.
    assert status(mount, "/proc").returncode == 3
    done = status(mount, mount.path / "below")
    assert done.returncode == 3
    assert done.stdout.endswith(f"/below: not mounted, but on the mount at {mount.path}\n")
    done = status(mount, mount.path, tmp_path)
    assert done.returncode == 3
    assert done.stdout.startswith(f"{mount.path}: serving\n")
    started = time.monotonic()
    assert status(mount, "--wait", "0.5", tmp_path).returncode == 3
    assert time.monotonic() - started > 0.5


@pytest.mark.promises("9.7")
def test_dead_and_hung(stand_in: StandIn, mount: Mount, tmp_path: Path) -> None:
    dead = Daemon(tmp_path / "dead", stand_in)
    hung = Daemon(tmp_path / "hung", stand_in)
    try:
        # It waits for both, one after another.
        done = status(hung, "--wait", "45", dead.path, hung.path)
        assert done.returncode == 0, done.stdout + dead.log() + hung.log()
        dead.process.kill()
        dead.exit_code()
        hung.process.send_signal(signal.SIGSTOP)
        done = status(dead, dead.path)
        assert done.returncode == 4
        assert done.stdout.startswith(f"{dead.path}: dead: its daemon has ended; ")
        started = time.monotonic()
        done = status(hung, hung.path, hung.path, dead.path, mount.path)
        # It takes no longer for two that hang, and what is left behind keeps nobody.
        assert LOOK_S < time.monotonic() - started < 2 * LOOK_S
        assert done.returncode == 5
        words = f"{hung.path}: hung: its daemon (process {hung.process.pid}) does not answer"
        assert done.stdout.count(words) == 2
        assert f"{mount.path}: serving\n" in done.stdout
        # Looked at again and again it is waited for once: this would take ten minutes else.
        with closing(Survey([hung.path])) as survey:
            for _ in range(600):
                [seen] = survey.look(1.0)
                assert seen.health is Health.HANGS
        found = document(status(hung, "--json", "--timeout", "0", hung.path), hung.path)
        assert found["state"] == "hung"
        assert found["pid"] == hung.process.pid
        assert found["status"] is None
        hung.process.send_signal(signal.SIGCONT)
        assert status(hung, "--wait", "45", hung.path).returncode == 0
    finally:
        for daemon in (dead, hung):
            daemon.take_down()


def test_under_another_mount(stand_in: StandIn, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may mount over it")
    daemon = Daemon(tmp_path / "mount", stand_in)
    try:
        daemon.wait_until_mounted()
        run("mount", "-t", "tmpfs", "none", daemon.path)
        try:
            assert status(daemon, daemon.path).returncode == 3
        finally:
            run("umount", daemon.path)
        assert status(daemon, daemon.path).returncode == 0
    finally:
        daemon.take_down()

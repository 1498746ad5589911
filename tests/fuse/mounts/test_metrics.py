"""`--metrics-port`: the mount's counters for Prometheus, and beside a run's own."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import prepared
import pytest
import requests
from conftest import Mounter
from mounts import WBFS, Mount, run, wait_until
from prometheus_client.parser import text_string_to_metric_families
from stand_in import StandIn

LOG = """
import wandb
with wandb.init(project="measured") as run:
    artifact = wandb.Artifact("data", type="dataset")
    with artifact.new_file("a.bin", mode="wb") as file:
        file.write(bytes(100_000))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
TRAIN = """
import sys, time
import wandb
with wandb.init(project="measured") as run:
    open(sys.argv[1], "rb").read()
    path = run._settings.sync_file
    deadline = time.monotonic() + 80
    while b"openmetrics.wbfs" not in open(path, "rb").read() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert b"openmetrics.wbfs.wbfs_served_bytes_total" in open(path, "rb").read()
"""


def port_of(mount: Mount) -> int:
    found = re.search(r"metrics are at http://127\.0\.0\.1:(\d+)/metrics", mount.log())
    assert found
    return int(found[1])


def metrics_at(port: int) -> dict[str, float]:
    answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=50)
    assert answer.status_code == 200
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if not sample.labels
    }


@pytest.fixture(scope="module")
def version(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a version of one file."""
    return Path(stand_in.run_sdk(LOG, tmp_path_factory.mktemp("measured")), "measured/data/v0")


def test_prometheus_is_told(mounter: Mounter, stand_in: StandIn, version: Path) -> None:
    mount = mounter(options=["--metrics-port", "0"])
    port = port_of(mount)
    assert metrics_at(port)["wbfs_reads_total"] == 0
    with (
        stand_in.faults(port="files", delay_s=0.2),
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert (mount.path / version / "a.bin").read_bytes() == bytes(100_000)
        found = metrics_at(port)
    assert found["wbfs_served_bytes_total"] == found["wbfs_fetched_bytes_total"] == 100_000
    assert found["wbfs_reads_total"] >= found["wbfs_waited_reads_total"] == 1
    assert found["wbfs_waited_seconds_total"] > 0.2
    assert (found["wbfs_opened_files_total"], found["wbfs_opened_here_total"]) == (1, 0)
    assert found["wbfs_server_lost"] == found["wbfs_cache_troubled"] == 0
    # The kernel releases a file some time after it was closed.
    wait_until(lambda: metrics_at(port)["wbfs_open_files"] == 0, what="the file is released")
    # Who is connected and says nothing holds up no end.
    with socket.create_connection(("127.0.0.1", port)):
        mount.umount()
    wait_until(lambda: not mount.is_alive(), what="the daemon ends")
    with pytest.raises(requests.ConnectionError):
        metrics_at(port)


def test_a_port_that_is_taken(stand_in: StandIn, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in (
            ["--metrics-port", str(port)],
            ["--metrics-port", "0", "--metrics-address", "no such address"],
            ["--metrics-port", "0", "--metrics-address", "192.0.2.1"],
        ):
            command = [*WBFS, "mount", "--cache-dir", tmp_path / "cache", *options, mountpoint]
            done = run(*command, env=stand_in.env(tmp_path))
            assert done.returncode != 0
            assert "can't listen at" in done.stderr
            assert "--metrics-address" in done.stderr
            assert done.stderr.count("\n") == 1
            assert not mountpoint.is_mount()
    nowhere = (*WBFS, "mount", "--metrics-address", "127.0.0.1", mountpoint)
    done = run(*nowhere, env=stand_in.env(tmp_path))
    assert done.returncode == 2
    assert "where --metrics-port listens: give that, too" in done.stderr
    assert not mountpoint.is_mount()


def test_they_stand_beside_a_runs_own(
    mounter: Mounter, stand_in: StandIn, version: Path, tmp_path: Path
) -> None:
    mount = mounter(options=["--metrics-port", "0"])
    home = tmp_path / "trainer"
    home.mkdir()
    endpoints = {"wbfs": f"http://127.0.0.1:{port_of(mount)}/metrics"}
    env = stand_in.env(home) | {
        "WANDB_X_STATS_OPEN_METRICS_ENDPOINTS": json.dumps(endpoints),
        "WANDB_X_STATS_SAMPLING_INTERVAL": "1",
    }
    done = prepared.run_sdk("-c", TRAIN, str(mount.path / version / "a.bin"), env=env)
    assert done.returncode == 0, done.stderr[-2000:]

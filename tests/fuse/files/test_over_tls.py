"""The data path once more, over TLS, by a certificate that nobody trusts but who is told to.

Every byte, and as few of them: large files in ranges by the tests that do it without TLS, and a
tree of small ones, mounted, fetched and prefetched, beside what the SDK downloads.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import prepared
import pytest
import test_ranges
from conftest import Mounter
from mounts import WBFS, check, run
from stand_in import StandIn
from test_ranges import (
    Moved,
    moved,
    test_first_bytes_cost_little,
    test_from_end_to_end,
    test_mapped_pages_wait_for_themselves_only,
    version,
)

FILES = 40
LARGE = 6 << 20
LOG = f"""
import random
import sys
import wandb
with wandb.init(project="tls") as run:
    artifact = wandb.Artifact("files", type="dataset")
    sizes = {{f"small/{{number:02}}.bin": 20_000 + number for number in range({FILES})}}
    for name, size in (sizes | {{"large.bin": {LARGE}, "empty": 0, "a/b/c/one": 1}}).items():
        with artifact.new_file(name, mode="wb") as file:
            file.write(random.Random(name).randbytes(size))
    artifact.add_reference(sys.argv[1] + "/remote.bin")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
DOWNLOAD = """
import sys
import wandb
wandb.Api().artifact(sys.argv[1]).download(root=sys.argv[2])
"""


@pytest.fixture(scope="session")
def stand_in(tls_stand_in: StandIn) -> StandIn:
    """Stand where the imported tests and fixtures ask for the server."""
    return tls_stand_in


def test_a_wide_walk(mounter: Mounter, version: Path, moved: Moved) -> None:
    test_ranges.test_any_order(mounter, version, moved, "far and wide")


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_after_bytes": 300_000, "first": 25},
        {"stall_after_bytes": 100_000, "stall_s": 2, "first": 3},
        {"bandwidth_bytes_per_s": 2 << 20, "first": 4},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_the_bytes_are_right_all_the_same(
    mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved, fault: dict[str, Any]
) -> None:
    test_ranges.test_the_bytes_are_right_all_the_same(mounter, version, stand_in, moved, fault)


@pytest.fixture(scope="module")
def name(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the full name of a version with small files, a large one and a reference."""
    stand_in.public_dir.mkdir(exist_ok=True)
    (stand_in.public_dir / "remote.bin").write_bytes(b"remote" * 1000)
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("tls"), stand_in.public_url)
    return f"{entity}/tls/files:v0"


@pytest.fixture(scope="module")
def downloaded(stand_in: StandIn, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the SDK downloaded it."""
    home = tmp_path_factory.mktemp("downloaded")
    env = stand_in.env(home)
    done = prepared.run_sdk("-c", DOWNLOAD, name, home / "files", env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return home / "files"


def test_the_server_says_whom_to_trust(stand_in: StandIn) -> None:
    trust = f"REQUESTS_CA_BUNDLE={stand_in.ca_file} SSL_CERT_FILE={stand_in.ca_file}"
    assert trust in stand_in.log()
    assert stand_in.base_url.startswith("https://")
    assert stand_in.files_url.startswith("https://")


@pytest.fixture
def env(stand_in: StandIn, tmp_path: Path) -> dict[str, str]:
    return stand_in.env(tmp_path / "home") | {"WBFS_CACHE_DIR": str(tmp_path / "cache")}


def test_a_mounted_tree_is_what_the_sdk_downloads(
    mounter: Mounter, name: str, downloaded: Path
) -> None:
    mount = mounter(name)
    assert check("diff", "-r", mount.path, downloaded) == ""
    assert mount.errors() == []


@pytest.mark.parametrize("fault", [{}, {"cut_after_bytes": 10_000, "first": 10}], ids=str)
def test_get_is_what_the_sdk_downloads(
    stand_in: StandIn,
    env: dict[str, str],
    tmp_path: Path,
    name: str,
    downloaded: Path,
    fault: dict[str, Any],
) -> None:
    with stand_in.faults(port="files", **fault):
        check(*WBFS, "get", name, "--root", tmp_path / "ours", env=env)
    assert check("diff", "-r", tmp_path / "ours", downloaded) == ""


def test_what_was_prefetched_is_not_asked_for_again(
    stand_in: StandIn, env: dict[str, str], mounter: Mounter, name: str, downloaded: Path
) -> None:
    check(*WBFS, "prefetch", name, env=env)
    mount = mounter(name)
    stand_in.clear_requests()
    assert check("diff", "-r", mount.path, downloaded) == ""
    assert not stand_in.requests(port="files")


def test_wrong_bytes_are_never_served(mounter: Mounter, name: str, stand_in: StandIn) -> None:
    mount = mounter(name, options=["--verify=always"])
    files = (mount.path / "small/00.bin", mount.path / "large.bin")
    with stand_in.faults(match="^/wandb_artifacts/", wrong_bytes=True):
        for path in files:
            with pytest.raises(OSError, match="error") as caught:
                path.read_bytes()
            assert caught.value.errno == errno.EIO
    assert "damaged on the server or on the way" in mount.log()


def test_a_stall_ends_in_time_and_holds_up_nobody(
    mounter: Mounter, name: str, stand_in: StandIn
) -> None:
    mount = mounter(name, options=["--timeout", "15"])
    check("cat", mount.path / "small/01.bin")
    with stand_in.faults(port="files", stall_after_bytes=5000):
        command = ["cat", mount.path / "small/00.bin"]
        with subprocess.Popen(command, stdout=-1, stderr=-1) as waiting:
            check("cat", mount.path / "small/01.bin")
            assert waiting.poll() is None
            _, said = waiting.communicate(timeout=50)
    assert b"Connection timed out" in said
    check("cat", mount.path / "small/00.bin")

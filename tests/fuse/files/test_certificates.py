"""Certificates that are good, bad and go bad: who is believed, and what a mount says and does."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import BAD, Authority
from conftest import Mounter
from large_manifest import log_version_of
from mounts import WBFS, check, run, wait_until
from scripted import reply, scripted_servers
from stand_in import CA_VARIABLES, StandIn

LOG = """
import wandb
with wandb.init(project="certificates") as run:
    artifact = wandb.Artifact("files", type="dataset")
    for number in range(20):
        with artifact.new_file(f"{number}.txt") as file:
            file.write(f"content {number}")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
CONTENT = b"of a reference"
UNSET = [f"--unset={name}" for name in CA_VARIABLES]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "stand-in")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[StandIn]:
    """Return a stand-in server whose certificates the authority signs."""
    folder = authority.ca_file.parent
    authority.write(folder / "server.pem")
    server = StandIn(folder, "--tls")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def name(server: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the full name of a version with small files."""
    return server.run_sdk(LOG, tmp_path_factory.mktemp("log")) + "/certificates/files:v0"


@pytest.mark.parametrize("what", ["expired", "other name", "other CA"])
def test_a_mount_is_refused_with_the_reason(
    stand_in: StandIn, authority: Authority, tmp_path: Path, what: str
) -> None:
    words, make = BAD[what]
    (tmp_path / "mountpoint").mkdir()
    with scripted_servers(make(authority, tmp_path)) as start:
        bad = start()
        env = stand_in.env(tmp_path / "home") | {
            "WANDB_BASE_URL": bad.url.replace("http://", "https://"),
            "REQUESTS_CA_BUNDLE": str(authority.ca_file),
        }
        command = [*WBFS, "mount", "--cache-dir", tmp_path / "cache", tmp_path / "mountpoint"]
        done = run(*command, env=env)
        assert bad.connections <= 2
    assert done.returncode == 1
    assert re.search(words, done.stderr)
    assert len(done.stderr.splitlines()) == 1


def read_error(path: Path) -> int | None:
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return None


def test_a_certificate_goes_bad_under_a_mount(
    mounter: Mounter, server: StandIn, authority: Authority, name: str
) -> None:
    mount = mounter(name, server=server, options=["--timeout", "100"])
    assert (mount.path / "1.txt").read_text() == "content 1"
    pem = server.data_dir / "server.pem"
    authority.write(pem, expired=True)
    server.restart()
    try:
        for number in (2, 3):
            # At once: waiting makes no certificate better.
            done = run("timeout", "40", "cat", mount.path / f"{number}.txt")
            assert "Input/output error" in done.stderr
        assert (mount.path / "1.txt").read_text() == "content 1"
        assert len(list(mount.path.iterdir())) == 20
        assert {error["errno"] for error in mount.errors()} == {"EIO"}
        assert all("has expired" in error["cause"] for error in mount.errors())
        assert "has expired" in mount.log()
    finally:
        authority.write(pem)
        server.restart()
    wait_until(lambda: read_error(mount.path / "2.txt") is None, what="it is believed again")
    assert (mount.path / "3.txt").read_text() == "content 3"


@pytest.mark.parametrize("what", ["expired", "other CA"])
def test_a_references_origin_is_not_believed(
    mounter: Mounter, stand_in: StandIn, authority: Authority, tmp_path: Path, what: str
) -> None:
    words, make = BAD[what]
    with (
        scripted_servers(make(authority, tmp_path)) as start_bad,
        scripted_servers(authority.context()) as start_good,
    ):
        bad, good = start_bad(), start_good()
        for server in (bad, good):
            server.answers = [reply(200, CONTENT, ETag='"etag"')]
        rows = {
            name: {"digest": "etag", "ref": server.url + "/file", "size": len(CONTENT)}
            for name, server in (("bad", bad), ("good", good))
        }
        logged = log_version_of(
            stand_in, f"origins-{what[:5]}", folders=1, files_per_folder=1, extra=rows
        )
        trust = f"REQUESTS_CA_BUNDLE={authority.ca_file}"
        mount = mounter(logged.source, program=["env", trust, *WBFS])
        assert read_error(mount.path / "bad") == errno.EIO
        assert (mount.path / "good").read_bytes() == CONTENT
        # Two for the size, one for the open, and one for each time that the kernel asks.
        assert bad.connections <= 6
    assert re.search(words, mount.errors()[-1]["cause"])
    assert f"127.0.0.1:{bad.port}" in mount.errors()[-1]["cause"]


def test_folders_of_certificates_are_believed_wherever_a_daemon_goes(
    mounter: Mounter, server: StandIn, name: str, tmp_path: Path
) -> None:
    (tmp_path / "company").mkdir()
    (tmp_path / "company/ca.crt").write_bytes(server.ca_file.read_bytes())
    folders = "SSL_CERT_DIR=company:/etc/ssl/certs"
    program = ["env", "-C", str(tmp_path), *UNSET, folders, *WBFS]
    mount = mounter(name, server=server, program=program)
    # Also by the process apart.
    check(*WBFS, "prefetch", mount.path, env=mount.env)
    assert (mount.path / "5.txt").read_text() == "content 5"
    assert mount.errors() == []


def test_certificates_are_not_checked_where_that_is_asked_for(
    mounter: Mounter, server: StandIn, name: str, tmp_path: Path
) -> None:
    program = ["env", *UNSET, "WANDB_INSECURE_DISABLE_SSL=true", *WBFS]
    mount = mounter(name, server=server, program=program)
    assert (mount.path / "5.txt").read_text() == "content 5"
    assert "certificates are not checked" in mount.log()
    env = server.env(tmp_path / "home") | {"WBFS_CACHE_DIR": str(tmp_path / "other cache")}
    done = run(*program, "get", name, "--root", tmp_path / "files", env=env)
    assert done.returncode == 0, done.stderr
    # By a line of ours, and by none of a library's.
    assert done.stderr.count("certificates are not checked") == 1
    assert "InsecureRequestWarning" not in done.stderr
    assert (tmp_path / "files/5.txt").read_text() == "content 5"

"""`--as-of`: versions and `latest` are those of a moment; what can't be known is never guessed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from mounts import COMMAND_TIMEOUT_S, WBFS, check
from stand_in import StandIn

LOG = """
import datetime, json, time, wandb
moments = {}
def now(name):
    moments[name] = datetime.datetime.now(datetime.UTC).isoformat()
    # The server tells whole seconds.
    time.sleep(1.05 - time.time() % 1)
def log(run, name, *contents):
    for content in contents:
        artifact = wandb.Artifact(name, type="dataset")
        with artifact.new_file("a.txt") as file:
            file.write(content)
        run.log_artifact(artifact, aliases=["best"]).wait()
with wandb.init(project="past") as run:
    now("before")
    log(run, "data", "zero", "one")
    log(run, "deleted", "zero", "one", "two")
    log(run, "moved", "zero", "one")
    run.link_artifact(run.use_artifact("data:v1"), "links/linked")
    now("then")
    log(run, "data", "two")
    log(run, "deleted", "three")
    log(run, "young", "zero")
    run.link_artifact(run.use_artifact("data:v0"), "links/linked")
    api = wandb.Api()
    api.artifact("past/deleted:v2").delete(delete_aliases=True)
    old = api.artifact("past/moved:v0")
    old.aliases.append("latest")
    old.save()
    print(json.dumps({"entity": run.entity, **moments}))
"""


@dataclass(frozen=True, slots=True)
class Past:
    """What was logged, and a moment before and one between."""

    entity: str
    before: str
    then: str
    env: Mapping[str, str]

    def wbfs(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return prepared.run_wbfs(*words, env=self.env, timeout_s=COMMAND_TIMEOUT_S)


@pytest.fixture(scope="module")
def past(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Past:
    home = tmp_path_factory.mktemp("past-home")
    env = stand_in.env(home) | {"WBFS_CACHE_DIR": str(home / "cache")}
    done = prepared.run_sdk("-c", LOG, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return Past(**json.loads(done.stdout.splitlines()[-1]), env=env)


def error_of(path: Path) -> int | None:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno
    return None


@pytest.mark.promises("2.6")
def test_versions_and_latest_are_those_of_then(
    past: Past, mounter: Mounter, tmp_path: Path
) -> None:
    mount = mounter(options=["--as-of", past.then, "--alias-ttl", "0"])
    project = mount.path / past.entity / "past"
    names = {name: sorted(os.listdir(project / name)) for name in os.listdir(project)}
    assert names == {
        "data": ["latest", "v0", "v1"],
        # Of the latest one it can't be known which it was: one that was deleted, or moved by hand.
        "deleted": ["v0", "v1"],
        "moved": ["v0", "v1"],
        "young": [],
    }
    # A version counts from when it was linked where it is a link.
    links = project.parent / "links/linked"
    assert sorted(os.listdir(links)) == ["latest", "v0"]
    for data in (project / "data/latest", project / "data/v1", links / "latest", links / "v0"):
        assert (data / "a.txt").read_text() == "one"
    assert os.getxattr(project / "data/latest", "user.wandb.version") == b"v1"
    assert os.getxattr(project / "data/latest", "user.wandb.aliases") == b"latest"
    digest, artifact_id = (
        os.getxattr(project / "data/v0", f"user.wandb.{name}").decode() for name in ("digest", "id")
    )
    for fixed in (digest, artifact_id):
        assert (project / "data" / fixed / "a.txt").read_text() == "zero"
    for younger in ("data/v2", "deleted/v3", "young/v0", "young/latest", "data/no-such-alias"):
        assert error_of(project / younger) == errno.ENOENT, younger
    assert error_of(links / "v1") == errno.ENOENT
    for unknown in ("data/best", "deleted/latest", "moved/latest"):
        assert error_of(project / unknown) == errno.EIO, unknown
        cause = mount.errors()[-1]["cause"]
        assert f"can't tell what {past.entity}/past/{unknown.replace('/', ':')} was" in cause
    assert mount.status()["as_of"] == past.then
    assert f", as of {past.then}" in check(*WBFS, "status", mount.path, env=mount.env)
    mount.umount()

    # Offline it is what was looked up of this moment, and of no other.
    offline = mounter(options=["--offline", "--as-of", past.then])
    assert sorted(os.listdir(offline.path / past.entity / "past/data")) == names["data"]
    assert (offline.path / past.entity / "past/data/latest/a.txt").read_text() == "one"
    offline.umount()
    now = mounter(options=["--offline"])
    assert error_of(now.path / past.entity / "past/data/latest") == errno.EIO


def test_before_there_was_anything(past: Past, mounter: Mounter) -> None:
    mount = mounter(f"{past.entity}/past", options=["--as-of", past.before])
    assert os.listdir(mount.path / "data") == []
    assert error_of(mount.path / "data/latest") == errno.ENOENT


@pytest.mark.promises("2.6")
def test_downloads_and_locks(past: Past, tmp_path: Path) -> None:
    data = f"{past.entity}/past/data"
    as_of = ("--as-of", past.then)
    root = tmp_path / "root"
    assert past.wbfs("get", *as_of, "--root", root, data).returncode == 0
    assert (root / "a.txt").read_text() == "one"
    lock = tmp_path / "wbfs.lock"
    assert past.wbfs("lock", "--file", lock, f"{data}:best").returncode == 0
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    for words, code, said in (
        (["get", f"{data}:v2"], 77, "there is no version or alias 'v2'"),
        (["get", f"{data}:best"], 2, "tells only that it is v2 now; name a version"),
        (["mount", f"{data}:best", mountpoint], 2, "tells only that it is v2 now"),
        (["mount", f"{data}:v2", mountpoint], 77, "'v2' of"),
        (["get", "--lock", lock, f"{data}:best"], 2, "leave --lock or --as-of out"),
        (["mount", "--lock", lock, mountpoint], 2, "is locked to v2, which was not there as of"),
    ):
        done = past.wbfs(words[0], *as_of, *words[1:])
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr


def test_which_moments_there_are(past: Past, tmp_path: Path) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for text, said in (
        ("2026-11-01T12:00", "has no zone: put Z behind it"),
        ("2026-11-01", "has no zone"),
        ("0001-01-01T00:00+14:00", "is no time as 2026-11-01T12:00Z is one"),
        ("yesterday", "is no time as 2026-11-01T12:00Z is one"),
        (later, "is not over yet"),
    ):
        done = past.wbfs("get", "--as-of", text, "--root", tmp_path / "root", "a/b/c:d")
        assert done.returncode == 2
        assert said in done.stderr

"""What programs get when they may not, or when there is nothing; and the reasons in words."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from mounts import WBFS, check, run
from stand_in import StandIn

KEYS = {
    "writer": "a" * 39 + "1",
    "viewer": "b" * 39 + "2",
    "stranger": "c" * 39 + "3",
}
LOG = """
import wandb
with wandb.init(entity="access-team", project="secret") as run:
    artifact = wandb.Artifact("data", type="dataset")
    with artifact.new_file("folder/a.txt") as file:
        file.write("content")
    run.log_artifact(artifact).wait()
"""


@dataclass(frozen=True, slots=True)
class Team:
    """A project that one team has, and keys in and outside of it."""

    server: StandIn
    version: Path


@pytest.fixture(scope="session")
def team(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Team:
    users = [
        {
            "name": name,
            "email": f"{name}@example.com",
            "admin": False,
            "api_key": key,
            "default_entity": "access-team" if name == "writer" else None,
        }
        for name, key in KEYS.items()
    ]
    members = {"writer": "member", "viewer": "view-only"}
    stand_in.accounts({"users": users, "teams": [{"name": "access-team", "members": members}]})
    home = tmp_path_factory.mktemp("access")
    done = prepared.run_sdk("-c", LOG, env=stand_in.env(home, KEYS["writer"]))
    assert done.returncode == 0, done.stderr[-2000:]
    return Team(stand_in, Path("access-team/secret/data/v0"))


@pytest.mark.promises("6.2", "6.6")
def test_a_viewer_lists_but_does_not_read(mounter: Mounter, team: Team) -> None:
    mount = mounter(api_key=KEYS["viewer"])
    file = mount.path / team.version / "folder/a.txt"
    assert "access-team" in os.listdir(mount.path)
    assert "a.txt" in check("ls", "-lR", mount.path / team.version)
    assert file.stat().st_size == len("content")
    done = run("cat", file)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "permission denied" in mount.log()
    assert "secret/data:v0/folder/a.txt" in mount.log()
    assert {(error["errno"], error["error"]) for error in mount.errors()} == {
        ("EACCES", "AccessDenied")
    }


def test_a_member_reads(mounter: Mounter, team: Team) -> None:
    mount = mounter(api_key=KEYS["writer"])
    assert check("cat", mount.path / team.version / "folder/a.txt") == "content"


@pytest.mark.promises("1.1")
def test_the_root_lists_what_is_one_s_own(mounter: Mounter, team: Team) -> None:
    mount = mounter(api_key=KEYS["writer"])
    assert sorted(os.listdir(mount.path)) == ["access-team", "writer"]


def test_a_stranger_finds_nothing(mounter: Mounter, team: Team) -> None:
    mount = mounter(api_key=KEYS["stranger"])
    assert os.listdir(mount.path) == ["stranger"]
    done = run("ls", mount.path / "access-team/secret")
    assert "No such file or directory" in done.stderr
    assert "no 'access-team' in /" in mount.log()


@pytest.mark.parametrize(
    "path",
    [
        "no-such-entity",
        "access-team/no-such-project",
        "access-team/secret/no-such-artifact",
        "access-team/secret/data/no-such-alias",
        "access-team/secret/data/v99",
        "access-team/secret/data/v0/no-such-file",
        "access-team/secret/data/v0/folder/no-such-file",
    ],
)
def test_unknown_names(mounter: Mounter, team: Team, path: str) -> None:
    mount = mounter(api_key=KEYS["writer"])
    done = run("stat", mount.path / path)
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
    reason = "the manifest has no" if "v0/" in path else "there is no"
    assert re.search(f"no {Path(path).name!r} in .*: {reason}", mount.log())
    before = mount.status()["requests"]["lookup"]
    run("stat", mount.path / path)
    # The kernel remembers what isn't there.
    assert mount.status()["requests"]["lookup"] <= before + 1


@pytest.mark.promises("6.6", "9.5")
def test_no_secret_is_written_anywhere(mounter: Mounter, team: Team, tmp_path: Path) -> None:
    mount = mounter(api_key=KEYS["writer"], options=["--debug"])
    check("cat", mount.path / team.version / "folder/a.txt")
    with team.server.faults(port="files", error_share=1.0):
        run("cat", mount.path / team.version / "folder/a.txt")
    told = "".join(
        [
            mount.log(),
            *(
                (mount.path / ".wbfs" / name).read_text()
                for name in ("status.json", "errors.jsonl")
            ),
            Path(f"/proc/{mount.pid}/cmdline").read_text(),
        ]
    )
    assert KEYS["writer"] not in told
    assert "X-Signature" not in told
    assert "Authorization" not in told
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if KEYS["writer"].encode() in path.read_bytes()]


def test_a_daemon_finds_its_settings_where_it_was_started(
    mounter: Mounter, team: Team, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    (work / "wandb").mkdir(parents=True)
    secret = f"user:verysecret@{team.server.base_url.removeprefix('http://')}"
    text = f"[default]\nbase_url = http://{secret}\napi_key = {KEYS['viewer']}\n"
    (work / "wandb/settings").write_text(text)
    unset = [f"--unset={name}" for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DIR")]
    relative = ["REQUESTS_CA_BUNDLE=wandb/settings", "NETRC=netrc"]
    mount = mounter(program=["env", "-C", str(work), *unset, *relative, *WBFS])
    assert mount.status()["server"] == team.server.base_url
    file = mount.path / team.version / "folder/a.txt"
    assert run("cat", file).returncode == 1
    (work / "wandb/settings").write_text(text.replace(KEYS["viewer"], KEYS["writer"]))
    with team.server.faults(port="api", first=1, error_share=1.0, error_status=401):
        assert check("cat", file) == "content"
    command_line = Path(f"/proc/{mount.pid}/cmdline").read_text()
    told = mount.log() + json.dumps([mount.status(), mount.errors()]) + command_line
    assert "verysecret" not in told
    names = [str(path) for path in (tmp_path / "cache").rglob("*")]
    contents = [path.read_bytes() for path in (tmp_path / "cache").rglob("*.sqlite*")]
    assert names
    assert "verysecret" not in repr(names)
    assert contents
    assert not any(b"verysecret" in content for content in contents)
    assert Path(f"/proc/{mount.pid}/cwd").readlink() == Path("/")


def test_a_ca_bundle_that_is_not_there_is_named(team: Team, tmp_path: Path) -> None:
    (tmp_path / "mountpoint").mkdir()
    env = team.server.env(tmp_path / "home") | {"REQUESTS_CA_BUNDLE": "no/such/bundle"}
    done = run(*WBFS, "mount", "--cache-dir", tmp_path / "cache", tmp_path / "mountpoint", env=env)
    assert done.returncode == 2
    assert "there is no CA bundle" in done.stderr
    assert "no/such/bundle" in done.stderr
    assert "Traceback" not in done.stderr

"""What members of registries, and others of their organization, see: with the SDK, and mounted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import prepared
import pytest
from conftest import Mounter
from mounts import check, run
from stand_in import StandIn

KEYS = {
    "keeper": "d" * 39 + "1",
    "seat": "d" * 39 + "2",
    "half": "d" * 39 + "3",
    "mate": "d" * 39 + "4",
    "outside": "d" * 39 + "5",
}
# Those that let nobody read first: what is in the cache was read where it may be.
REGISTRIES = ("closed", "open", "other")
ORGANIZATION = "Registers"

LOG = """
import json, sys
import wandb

with wandb.init(entity="registers-team", project="made") as run:
    artifact = wandb.Artifact("net", type="model")
    with artifact.new_file("folder/weights.txt") as file:
        file.write("weights")
    run.log_artifact(artifact).wait()
    api = wandb.Api()
    registries = {}
    for name in ("closed", "other", "open"):
        visibility = "organization" if name == "open" else "restricted"
        registries[name] = api.create_registry(
            name, visibility=visibility, organization="Registers"
        )
        run.link_artifact(artifact, f"wandb-registry-{name}/net")

def members(registry):
    found = {one.user.username: one.role for one in registry.user_members()}
    return found | {one.team.name: one.role for one in registry.team_members()}

seat, half, outside = (api.user(name) for name in ("seat", "half", "outside"))
closed, other = registries["closed"], registries["other"]
out = {"at first": members(closed)}
closed.add_members(seat, half, outside.id, api.team("registers-mates"))
out["added"] = members(closed)
closed.update_member(seat, role="viewer")
closed.update_member(api.team("registers-mates"), role="member")
for _ in range(2):
    closed.remove_members(outside)
other.add_members(half).update_member(half, role="viewer")
out["changed"] = members(closed)
try:
    closed.update_member(outside, role="admin")
except Exception as error:
    out["no member"] = str(error)
try:
    closed.update_member(half, role="king")
except Exception as error:
    out["no role"] = str(error)
with open(sys.argv[1], "w") as file:
    json.dump(out, file)
"""

LOOK = """
import json, sys
from pathlib import Path
import wandb

def attempt(action):
    try:
        return action()
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

api = wandb.Api()
out = {"registries": sorted(one.name for one in api.registries(organization="Registers"))}
for name in ("closed", "other", "open"):
    full = f"Registers/wandb-registry-{name}/net:latest"
    out[name] = {
        "entries": attempt(lambda: sorted(api.artifact(full).manifest.entries)),
        "text": attempt(
            lambda: (Path(api.artifact(full).download(skip_cache=True)) / "folder/weights.txt")
            .read_text()
        ),
    }
out["added"] = attempt(
    lambda: bool(api.registry("closed", organization="Registers").add_members(api.viewer))
)
with open(sys.argv[1], "w") as file:
    json.dump(out, file)
"""


def sdk(stand_in: StandIn, folder: Path, user: str, program: str) -> Any:
    """Run a program with the SDK as a user; return what it tells."""
    result = folder / f"{user}.json"
    env = stand_in.env(folder / user, KEYS[user])
    done = prepared.run_sdk("-c", program, result, env=env, folder=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(result.read_text())


@pytest.fixture(scope="module")
def logged(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the registries' keeper was told of their members."""
    stand_in.accounts(
        {
            "users": [{"name": name, "api_key": key} for name, key in KEYS.items()],
            "teams": [
                {"name": "registers-team", "members": {"keeper": "member"}},
                {
                    "name": "registers-mates",
                    "members": {"mate": "member", "keeper": "view-only"},
                },
            ],
            "organizations": [
                {
                    "name": ORGANIZATION,
                    "teams": ["registers-team"],
                    "members": {"half": "view-only", "outside": "view-only"},
                    "registries": [],
                }
            ],
        }
    )
    return sdk(stand_in, tmp_path_factory.mktemp("registries"), "keeper", LOG)


def test_members_have_roles_of_their_own_in_a_registry(logged: Any) -> None:
    assert logged["at first"] == {"keeper": "admin"}
    assert logged["added"] == {"keeper": "admin"} | dict.fromkeys(
        ("seat", "half", "outside", "registers-mates"), "restricted_viewer"
    )
    assert logged["changed"] == {
        "keeper": "admin",
        "seat": "viewer",
        "half": "restricted_viewer",
        "registers-mates": "member",
    }
    assert "no member" in logged["no member"]
    assert "no such role" in logged["no role"]


@pytest.mark.parametrize(
    ("user", "seen"),
    [
        # A member of that one only, who is nothing else in the organization.
        ("seat", {"closed": "reads"}),
        # The same artifact: who may read it in one registry may not therefore in another.
        ("half", {"closed": "lists", "other": "reads", "open": "lists"}),
        # By their team, which is not of the organization.
        ("mate", {"closed": "reads"}),
        # A member of the organization, whom nobody let in.
        ("outside", {"open": "lists"}),
    ],
)
def test_each_is_shown_what_is_theirs(
    mounter: Mounter, stand_in: StandIn, logged: Any, tmp_path: Path, user: str, seen: Any
) -> None:
    told = sdk(stand_in, tmp_path, user, LOOK)
    assert told["registries"] == sorted(seen)
    assert "permission denied" in str(told["added"]) or "closed" not in seen
    mount = mounter(api_key=KEYS[user])
    entity = mount.path / f"{ORGANIZATION}-org"
    assert sorted(os.listdir(entity)) == [f"wandb-registry-{name}" for name in sorted(seen)]
    for name in REGISTRIES:
        file = entity / f"wandb-registry-{name}" / "net/latest/folder/weights.txt"
        if name not in seen:
            assert "not found" in told[name]["entries"]
            assert "not found" in told[name]["text"]
            assert "No such file or directory" in run("cat", file).stderr
            continue
        assert told[name]["entries"] == ["folder/weights.txt"]
        assert check("ls", file.parent).split() == ["weights.txt"]
        assert file.stat().st_size == len("weights")
        if seen[name] == "lists":
            assert "permission denied" in told[name]["text"]
            assert "Permission denied" in run("cat", file).stderr
        else:
            assert told[name]["text"] == "weights"
            assert check("cat", file) == "weights"

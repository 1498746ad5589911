"""What the real SDK shows to members, view-only seats and strangers, and after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sdk import run_program
from stand_in import StandIn

pytestmark = pytest.mark.sdk

KEYS = {"role-member": "1" * 40, "role-viewer": "2" * 40, "role-stranger": "3" * 40}
DATA = "role-team/private/data:latest"
ENTRIES = ["f", "folder/f1", "folder/f2"]


@pytest.fixture(scope="module")
def team(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    """The server, with an artifact in a team of the roles in `KEYS`."""
    stand_in.accounts(
        {
            "users": [
                {
                    "name": name,
                    "api_key": key,
                    "default_entity": "role-team" if name == "role-member" else None,
                }
                for name, key in KEYS.items()
            ],
            "teams": [
                {
                    "name": "role-team",
                    "members": {
                        "admin": "admin",
                        "role-member": "member",
                        "role-viewer": "view-only",
                    },
                }
            ],
        }
    )
    folder = tmp_path_factory.mktemp("team")
    environment = stand_in.env(folder / "home")
    run_program("log_one", environment, folder, "role-team", "private", "data", "3")
    return stand_in


def access(team: StandIn, user: str, folder: Path) -> Any:
    environment = team.env(folder / "home", api_key=KEYS[user])
    return run_program("access", environment, folder, DATA)


def test_a_member_reads_and_writes(team: StandIn, tmp_path: Path) -> None:
    result = access(team, "role-member", tmp_path)
    assert result["viewer"] == "role-member"
    assert result["teams"] == ["role-member", "role-team"]
    assert result["api_keys"] == [KEYS["role-member"][:6]]
    assert result["projects"] == {"result": ["private"]}
    assert result["entries"] == {"result": ENTRIES}
    assert result["download"] == {"result": 2}
    assert result["log"] == {"result": "v0"}
    # It is the entity that is meant where none is named.
    assert result["own_project"] == {"result": "role-team"}


def test_a_view_only_seat_lists_and_reads_no_file(team: StandIn, tmp_path: Path) -> None:
    result = access(team, "role-viewer", tmp_path)
    assert "private" in result["projects"]["result"]
    assert result["versions"] == {"result": ["v0"]}
    assert result["entries"] == {"result": ENTRIES}
    assert "permission denied" in result["download"]["error"]
    assert result["entry"]["error"].startswith("403 Client Error")
    assert "permission denied" in result["log"]["error"]
    assert result["own_project"] == {"result": "role-viewer"}


def test_a_stranger_sees_nothing(team: StandIn, tmp_path: Path) -> None:
    result = access(team, "role-stranger", tmp_path)
    assert result["teams"] == ["role-stranger"]
    assert result["projects"] == {"result": []}
    assert "error" in result["versions"]
    unknown = "project 'private' not found under entity 'role-team'"
    assert result["entries"] == result["download"] == result["entry"] == {"error": unknown}
    assert "permission denied" in result["log"]["error"]
    assert result["own_project"] == {"result": "role-stranger"}


def test_a_wrong_key_is_refused(stand_in: StandIn, tmp_path: Path) -> None:
    environment = stand_in.env(tmp_path / "home", api_key="9" * 40)
    with pytest.raises(AssertionError, match="user is not logged in"):
        run_program("access", environment, tmp_path, DATA)


def test_a_restart_keeps_everything(fresh_stand_in: StandIn, tmp_path: Path) -> None:
    server = fresh_stand_in
    server.accounts(
        {
            "users": [{"name": "role-member", "api_key": KEYS["role-member"]}],
            "teams": [{"name": "role-team", "members": {"role-member": "member"}}],
        }
    )
    environment = server.env(tmp_path / "home", api_key=KEYS["role-member"])
    run_program("log_one", environment, tmp_path, "role-team", "private", "data", "3")
    server.restart()
    result = access(server, "role-member", tmp_path / "after")
    assert result["versions"] == {"result": ["v0"]}
    assert result["entries"] == {"result": ENTRIES}
    assert result["download"] == {"result": 2}
    assert result["log"] == {"result": "v0"}

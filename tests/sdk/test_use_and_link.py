"""Artifacts are used, linked and registered across projects and entities by the real SDK."""

from __future__ import annotations

from typing import Any

import pytest
from sdk import run_program
from stand_in import StandIn

pytestmark = pytest.mark.sdk

ORGANIZATION_ENTITY = "Links-org"
REGISTERED = f"{ORGANIZATION_ENTITY}/wandb-registry-model/good"


@pytest.fixture(scope="module")
def linked(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `programs/use_and_link.py` tells of what it used and linked."""
    stand_in.accounts(
        {
            "users": [{"name": "linker", "api_key": "7" * 40}],
            "teams": [{"name": "link-team", "members": {"linker": "admin"}}],
            "organizations": [{"name": "Links", "teams": ["link-team"]}],
        }
    )
    folder = tmp_path_factory.mktemp("use")
    environment = stand_in.env(folder / "home", api_key="7" * 40)
    return run_program("use_and_link", environment, folder, "link-team")


def test_use_from_the_same_project(linked: Any) -> None:
    assert linked["same_project"] == "in the same project"


def test_use_from_another_project(linked: Any) -> None:
    assert linked["other_project"] == "ours 1"


def test_use_from_another_entity(linked: Any) -> None:
    assert linked["other_entity"] == "of the team"


def test_use_of_an_artifact_that_was_never_logged(linked: Any) -> None:
    assert linked["unlogged"]["qualified_name"] == "linker/uses/unlogged:v0"
    assert linked["unlogged"]["text"] == "never logged before"
    assert linked["unlogged_logged_by"] is None


def test_what_went_into_a_run_and_out_of_it(linked: Any) -> None:
    assert linked["used_by"] == [linked["user_run"]]
    assert linked["inputs"] == [
        "link-team/made/theirs:v0",
        "linker/made/ours:v1",
        "linker/made/ours:v2",
        "linker/uses/here:v0",
        "linker/uses/unlogged:v0",
    ]
    assert linked["outputs"] == ["direct:v0", "here:v0"]


def test_a_portfolio_has_indices_and_aliases_of_its_own(linked: Any) -> None:
    assert linked["linked"] == {
        "qualified_name": "linker/uses/portfolio:v0",
        "source": "linker/made/ours:v2",
        "aliases": ["chosen", "latest"],
        "is_link": True,
        "text": "ours 2",
    }
    assert linked["linked_again"]["qualified_name"] == "linker/uses/portfolio:v1"
    assert linked["portfolio_latest"]["source"] == "linker/made/ours:v0"
    assert linked["chosen"]["text"] == "ours 2"


def test_a_draft_can_be_linked(linked: Any) -> None:
    assert linked["direct"]["source"] == "linker/uses/direct:v0"
    assert linked["direct"]["text"] == "logged and linked at once"


def test_a_registry(linked: Any) -> None:
    assert linked["registered"]["qualified_name"] == f"{REGISTERED}:v0"
    assert linked["registered"]["aliases"] == ["latest", "prod"]
    assert linked["registry"]["source"] == "linker/made/ours:v2"
    assert linked["registries"] == ["model"]
    assert linked["registry_collections"] == ["good"]
    assert linked["registry_versions"] == [f"{REGISTERED}:v0"]


def test_a_registry_is_made_changed_and_deleted(linked: Any) -> None:
    assert linked["created_registry"] == ["wandb-registry-created", "changed", ["dataset"]]
    assert linked["registries_left"] == ["dataset", "model"]


def test_links_and_their_removal(linked: Any) -> None:
    assert linked["links"] == [f"{REGISTERED}:v0", "linker/uses/portfolio:v0"]
    assert linked["after_unlink"] == [f"{REGISTERED}:v0"]

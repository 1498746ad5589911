"""`wandb.Api()` lists and changes what is on the server, whatever the size of its pages."""

from __future__ import annotations

from typing import Any

import pytest
from sdk import run_program
from stand_in import StandIn

pytestmark = pytest.mark.sdk


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `programs/public_api.py` saw on a server with pages of two rows."""
    folder = tmp_path_factory.mktemp("api")
    server = StandIn(folder / "server", "--max-page-size", "2")
    try:
        result = run_program("public_api", server.env(folder / "home"), folder)
    finally:
        server.stop()
    return result


def test_projects_types_and_collections(api: Any) -> None:
    assert api["projects"] == ["api"]
    assert api["types"] == ["dataset", "model"]
    assert api["collections"] == ["dataset-0", "dataset-1", "many"]
    assert api["chosen_collections"] == ["dataset-1", "dataset-0"]


def test_versions(api: Any) -> None:
    everything = [f"v{number}" for number in range(7)]
    assert api["versions"] == everything[::-1]
    assert api["ordered"] == everything
    assert api["tagged"] == ["v1", "v3", "v5"]


def test_one_version(api: Any) -> None:
    assert api["by_alias"] == ["v3", {"number": 3}, api["run"]]
    assert api["by_digest"] == "v3"
    assert api["files"] == [[f"part{number}.txt", 3] for number in range(5)]
    assert api["named_files"] == ["part1.txt"]
    assert api["exists"] == [True, False, False, False, True]


def test_changes(api: Any) -> None:
    assert api["changed"] == {
        "version": "v3",
        "aliases": ["added"],
        "tags": ["new tag"],
        "description": "described",
        "metadata": {"number": 3, "more": [1, {"two": None}]},
        "ttl_s": 3600,
    }
    assert api["old_alias"] is False


def test_delete(api: Any) -> None:
    assert api["latest"] == "v6"
    assert "artifact has aliases" in api["delete_refused"]
    assert api["versions_after_delete"] == ["v5", "v4", "v3", "v2", "v1", "v0"]
    assert api["latest_after_delete"] == "v5"


def test_collections_change(api: Any) -> None:
    assert api["collection"] == ["renamed", "checkpoint", "a model", ["kept"], ["latest"]]
    assert api["models"] == []


def test_the_run(api: Any) -> None:
    assert api["run_state"] == "finished"
    assert api["runs"] == [api["run"]]
    assert "config.yaml" in api["run_files"]
    assert "wandb-summary.json" in api["run_files"]
    assert api["run_file"] is True
    assert api["runs_after_delete"] == []

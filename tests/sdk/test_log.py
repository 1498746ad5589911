"""Everything that a run can log comes back as it was, through the real SDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sdk import run_program
from stand_in import StandIn

pytestmark = pytest.mark.sdk

DEEP = "/".join(f"level{i}" for i in range(12)) + "/deep.bin"
BIG = bytes(range(251)) * 5000
FILES = {
    "root.txt": b"in the root\n",
    "empty": b"",
    "folder/with space.txt": b"a space",
    "naïve café/日本語.txt": "日本語".encode(),
    DEEP: bytes(range(256)) * 40,
    "folder/big.bin": BIG,
}


@pytest.fixture(scope="module")
def logged(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `programs/log.py` tells of the artifacts that it logged and downloaded."""
    folder = tmp_path_factory.mktemp("log")
    public = stand_in.public_dir / "log"
    public.mkdir(parents=True, exist_ok=True)
    (public / "remote.bin").write_bytes(b"remote" * 100)
    stand_in.clear_requests()
    result = run_program("log", stand_in.env(folder / "home"), folder, f"{stand_in.public_url}/log")
    result["operations"] = {request.operation for request in stand_in.requests()}
    result["keys"] = [request.key for request in stand_in.requests(port="files")]
    return result


def as_hex(files: dict[str, bytes]) -> dict[str, str]:
    return {name: data.hex() for name, data in files.items()}


def test_files_of_every_kind_come_back(logged: Any) -> None:
    assert logged["first_tree"] == as_hex(FILES)
    assert logged["first"]["paths"] == sorted(FILES)
    assert logged["first"]["file_count"] == len(FILES)
    assert logged["first"]["size"] == sum(len(data) for data in FILES.values())


def test_what_was_said_of_an_artifact(logged: Any) -> None:
    first = logged["first"]
    assert first["name"] == "files:v0"
    assert first["aliases"] == ["best", "first", "latest"]
    assert first["tags"] == ["one tag", "two"]
    assert first["metadata"] == {"rows": 3}
    assert first["description"] == "of files"
    assert first["ttl_s"] == 3 * 24 * 3600
    assert first["state"] == "COMMITTED"


def test_the_same_content_again_is_the_same_version(logged: Any) -> None:
    assert logged["again"]["id"] == logged["first"]["id"]
    assert logged["again"]["version"] == "v0"
    assert "again" in logged["again"]["aliases"]


def test_aliases_move_to_the_next_version(logged: Any) -> None:
    second = logged["second"]
    assert second["version"] == "v1"
    assert second["aliases"] == ["best", "latest"]
    assert second["paths"] == sorted([*FILES, "added.txt"])
    assert second["ttl_s"] is None


def test_an_increment_adds_to_the_version_before(logged: Any) -> None:
    expected = FILES | {
        "added.txt": b"added",
        "increment.txt": b"increment",
        "root.txt": b"replaced",
    }
    assert logged["incremental"]["version"] == "v2"
    assert logged["incremental_tree"] == as_hex(expected)
    assert logged["incremental"]["size"] == sum(len(data) for data in expected.values())


def test_a_draft_of_a_version_can_add_and_remove(logged: Any) -> None:
    expected = FILES | {"added.txt": b"added", "draft.txt": b"more", "root.txt": b"replaced"}
    assert logged["draft"]["version"] == "v3"
    assert logged["draft_tree"] == as_hex(expected)


def test_parts_of_a_distributed_artifact_are_merged(logged: Any) -> None:
    assert logged["distributed"]["version"] == "v0"
    assert logged["distributed_tree"] == as_hex({"part0.txt": b"part 0", "part1.txt": b"part 1"})


def test_references_to_http_files_and_another_artifact(logged: Any, stand_in: StandIn) -> None:
    assert logged["references_tree"] == as_hex(
        {
            "remote.bin": b"remote" * 100,
            "local/x.bin": b"x" * 1000,
            "local/sub/y.bin": b"y" * 10,
            "other/big.bin": BIG,
        }
    )
    assert logged["reference_sizes"] == {
        "remote.bin": 600,
        "local/x.bin": 1000,
        "local/sub/y.bin": 10,
        "other/big.bin": 0,
    }
    assert logged["ref_target"] == f"{stand_in.public_url}/log/remote.bin"


def test_a_reference_by_client_id_becomes_one_by_artifact_id(logged: Any) -> None:
    assert "ClientIDMapping" in logged["operations"]
    artifact_id = bytes.fromhex(logged["table_refs"]["copied.table.json"].split("/")[2])
    assert artifact_id.startswith(b"Artifact:")
    assert logged["table"] == [[1], [2]]


def test_bytes_that_the_project_has_are_not_uploaded_again(logged: Any) -> None:
    assert logged["shared"]["born_in"] == logged["first"]["id"]
    assert logged["shared_tree"] == {"copied.bin": BIG.hex()}


def test_a_storage_region(logged: Any) -> None:
    commit_hash, config, tree = logged["somewhere"]
    assert len(commit_hash) == 20
    assert config == {"storageLayout": "V2", "storageRegion": "minio-local"}
    assert tree == {"text.txt": b"somewhere".hex()}
    assert "invalid storageRegion: coreweave-us" in logged["nowhere"]


def test_urls_look_like_those_of_the_real_one(logged: Any) -> None:
    artifacts = [key for key in logged["keys"] if not key.startswith(("public/", "runs/"))]
    manifests = [key for key in artifacts if key.endswith("/wandb_manifest.json")]
    assert manifests
    assert len(artifacts) > len(manifests)
    assert {key.split("/")[0] for key in set(artifacts) - set(manifests)} == {"wandb_artifacts"}


def test_a_run_is_resumed(logged: Any) -> None:
    assert logged["resumed"] == [logged["run"]["id"], True, 0.5, 1]


def test_nothing_of_it_fails(logged: Any, stand_in: StandIn) -> None:
    """No request of all this was answered with an error."""
    assert [request for request in stand_in.requests() if request.status >= 400] == []


def test_an_offline_run_logs_nothing(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.clear_requests()
    environment = stand_in.env(tmp_path / "home") | {"WANDB_MODE": "offline"}
    with pytest.raises(AssertionError, match="ArtifactNotLoggedError"):
        run_program("log_one", environment, tmp_path, "admin", "offline", "data", "1")
    assert "CreateArtifact" not in {request.operation for request in stand_in.requests()}

"""Files that are other artifacts': versions that lead to thousands of those, or to themselves."""

from __future__ import annotations

import base64
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Mounter
from large_manifest import log_version_of
from mounts import WBFS
from population import Population
from stand_in import StandIn

from wbfs.fetch.apart.manifests import TARGETS_AT_ONCE

TARGETS = 200
PROJECT = "links"


def link(artifact_id: str, path: str, digest: str) -> dict[str, object]:
    """Return a manifest's row for another artifact's file."""
    uri = f"wandb-artifact://{base64.b64decode(artifact_id).hex()}/{path}"
    return {"digest": digest, "ref": uri, "size": 0}


def manifest_of(server: StandIn, text: bytes) -> Path:
    """Return where the server keeps the manifest that has this text in it."""
    [path] = [path for path in server.data_dir.rglob("*.json") if text in path.read_bytes()]
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Return a stand-in server with versions that lead to those of the artifact `targets`."""
    server = StandIn(tmp_path_factory.mktemp("links"))
    try:
        population = Population(server)
        population.add_projects("admin", [PROJECT])
        ids = population.add_versions("admin", PROJECT, "targets", TARGETS)
        links = {f"{number}": link(one, "file", f"{number}") for number, one in enumerate(ids)}
        nothing = {
            "gone": link(base64.b64encode(b"Artifact:999999").decode(), "file", "x"),
            "no id": {"digest": "x", "ref": "wandb-artifact://zz/file", "size": 0},
            "no file": link(ids[0], "no file", "x"),
        }
        log(server, "many", links | nothing)
        log(server, "few", {f"few {number}": links[f"{number}"] for number in range(4)})
        one = log(server, "one", {"a": links["0"]})
        two = log(server, "two", {"b": link(one, "b", "1"), "own": links["1"]})
        # As nobody could log it: each leads to the other.
        path = manifest_of(server, b'"a"')
        manifest = json.loads(path.read_text())
        manifest["contents"]["b"] = link(two, "b", "1")
        manifest["contents"]["own"] = link(two, "own", "1")
        path.write_text(json.dumps(manifest))
        yield server
    finally:
        server.stop()


def log(server: StandIn, name: str, rows: dict[str, dict[str, object]]) -> str:
    """Log a version of these rows; return its id."""
    logged = log_version_of(
        server, name, folders=0, files_per_folder=0, extra=rows, project=PROJECT
    )
    return logged.id


def sizes(folder: Path) -> dict[str, int | None]:
    """Return the sizes of a folder's files, None for those that are not known."""
    return {name: size_of(folder / name) for name in os.listdir(folder)}


def size_of(path: Path) -> int | None:
    """Return what `stat` says of a file's size; None where it fails."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def test_hundreds_of_targets_with_few_descriptors(mounter: Mounter, server: StandIn) -> None:
    mount = mounter(
        f"admin/{PROJECT}",
        server=server,
        program=("prlimit", "--nofile=64:64", *WBFS),
        options=("--timeout", "100"),
    )
    server.clear_requests()
    known = {f"{number}": 1 for number in range(TARGETS)}
    assert sizes(mount.path / "many/v0") == known | {"gone": None, "no id": None, "no file": None}
    asked = server.requests(operation="ArtifactsByID")
    assert len(asked) <= TARGETS / TARGETS_AT_ONCE + 1


def test_a_target_that_does_not_answer_costs_its_own_sizes_until_it_does(
    mounter: Mounter, server: StandIn
) -> None:
    mount = mounter(f"admin/{PROJECT}", server=server, options=("--timeout", "20"))
    target = manifest_of(server, b'"http://127.0.0.1:9/2"').parent.name
    with server.faults(port="files", match=f"manifests/{target}/", stall=True):
        assert sizes(mount.path / "few/v0") == {
            "few 0": 1,
            "few 1": 1,
            "few 2": None,
            "few 3": 1,
        }
    assert "few 2" in os.listdir(mount.path / "few/v0")
    server.clear_requests()
    mount = mounter(f"admin/{PROJECT}", server=server)
    assert set(sizes(mount.path / "few/v0").values()) == {1}
    # Nothing but what was missing.
    assert len(server.requests(operation="FetchArtifactManifest")) == 1
    # It is complete now.
    server.clear_requests()
    mount = mounter(f"admin/{PROJECT}", server=server)
    assert set(sizes(mount.path / "few/v0").values()) == {1}
    assert server.requests(operation="ArtifactsByID") == []


def test_versions_that_lead_to_each_other(mounter: Mounter, server: StandIn) -> None:
    mount = mounter(f"admin/{PROJECT}", server=server)
    assert sizes(mount.path / "one/v0") == {"a": 1, "b": None, "own": 1}
    assert sizes(mount.path / "two/v0") == {"b": None, "own": 1}
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        (mount.path / "one/v0/b").read_bytes()

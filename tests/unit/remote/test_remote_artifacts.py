"""What the server says becomes plain data, or an error that says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from tables import digest_of, entry_of

from wbfs.model.digests import Algorithm
from wbfs.model.errors import NotFound, RemoteProtocolError
from wbfs.model.runs import Run, Use
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.api.manifests import Manifest
from wbfs.remote.api.runs import RunsApi
from wbfs.remote.http.transport import Deadline

DEADLINE = Deadline.after(60)
ARTIFACT = {
    "id": "QXJ0aWZhY3Q6NA==",
    "state": "COMMITTED",
    "digest": "d" * 32,
    "createdAt": "2026-01-02T03:04:05",
    "artifactType": {"name": "dataset"},
}
PLACE = {"name": "c", "project": {"name": "p", "entity": {"name": "e"}}}
MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="


class FakeGraphQL:
    """Answers every query with the same data."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def execute(self, *_: object, **__: object) -> Mapping[str, Any]:
        return self._data


class NoFeatures:
    """A server that has none."""

    def has(self, name: str, deadline: Deadline) -> bool:
        return False


def api(data: Mapping[str, Any]) -> WandbApi:
    made = WandbApi.__new__(WandbApi)
    made.__dict__.update(_graphql=FakeGraphQL(data), _features=NoFeatures())
    return made


def member(**artifact: Any) -> dict[str, Any]:
    return {
        "versionIndex": 3,
        "aliases": [{"alias": "best"}, {"alias": "v3"}],
        "artifactCollection": PLACE,
        "artifact": ARTIFACT | artifact,
    }


def test_a_version_is_named_after_its_membership() -> None:
    data = {"project": {"artifactCollectionMembership": member()}}
    found = api(data).version("e", "p", "c", "best", deadline=DEADLINE)
    assert (found.path, found.aliases) == ("e/p/c:v3", ("best",))
    assert found.created_at_ns == 1767323045 * 10**9


def test_what_is_not_committed_is_not_there() -> None:
    data = {"project": {"artifactCollectionMembership": member(state="PENDING")}}
    with pytest.raises(NotFound, match="it is pending"):
        api(data).version("e", "p", "c", "best", deadline=DEADLINE)


@pytest.mark.parametrize("text", ["QXJ0aWZhY3Q6NA==", "41727469666163743a34"])
def test_ids_in_both_forms(text: str) -> None:
    linked = {"edges": [{"node": member()}]}
    data = {"artifact": ARTIFACT | {"artifactMemberships": linked}}
    assert api(data).version("e", "p", "c", text, deadline=DEADLINE).name == "v3"
    with pytest.raises(NotFound):
        api(data).version("e", "p", "elsewhere", text, deadline=DEADLINE)


@pytest.mark.parametrize(
    "data",
    [
        {"project": {"artifactCollectionMembership": member(createdAt="yesterday")}},
        {"project": {"artifactCollectionMembership": member(createdAt=None)}},
        {"project": {"artifactCollectionMembership": member(size=float("inf"))}},
        {"project": {"artifactCollectionMembership": member(tags=[1])}},
        {"project": {"artifactCollectionMembership": member() | {"aliases": [None]}}},
    ],
)
def test_answers_that_break_the_protocol(data: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        api(data).version("e", "p", "c", "best", deadline=DEADLINE)


def manifest(contents: object, **more: object) -> bytes:
    document = {"version": 1, "storagePolicy": "wandb-storage-policy-v1", "contents": contents}
    return json.dumps(document | more).encode()


def parse(data: bytes) -> Manifest:
    return Manifest(data, digest="", digest_algorithm="MANIFEST_MD5", what="e/p/c:v3")


def test_entries() -> None:
    uri = "http://h/one"
    parsed = parse(
        manifest(
            {
                "plain": {"digest": MD5, "size": 3, "birthArtifactID": "QQ==", "local_path": "/x"},
                "sizeless": {"digest": MD5},
                "xxh": {"digest": MD5, "size": 1, "extra": {"alg": "XXH128"}},
                "ref": {"digest": "tag", "ref": uri, "size": 12, "extra": {"etag": '"tag"'}},
                "unchecked": {"digest": uri, "ref": uri, "size": 0},
                "file": {"digest": MD5, "ref": "file:///data/x", "size": 5},
                "artifact": {"digest": MD5, "ref": "wandb-artifact://41/x", "size": 0},
                "s3": {"digest": "e", "ref": "s3://b/k", "size": 1, "extra": {"versionID": 7}},
            }
        )
    )
    by_path = {path: entry_of(path, parsed.row(path)) for path in parsed.paths}
    md5 = digest_of(MD5)
    assert parsed.left_out.report == []
    assert by_path["plain"].digest == md5
    assert by_path["plain"].birth_artifact_id == "QQ=="
    assert by_path["sizeless"].size == 0
    assert by_path["xxh"].digest == digest_of(MD5, Algorithm.XXH128)
    assert by_path["ref"].digest is None
    assert (by_path["ref"].size, by_path["unchecked"].size) == (12, None)
    assert (unchecked := by_path["unchecked"].reference)
    assert unchecked.unchecked
    assert by_path["file"].digest == md5
    assert (by_path["artifact"].digest, by_path["artifact"].size) == (md5, 0)
    assert (s3 := by_path["s3"].reference)
    assert s3.version_id == "7"
    keys = {entry.blob.key for entry in by_path.values()}
    assert len(keys) == 5  # the plain, sizeless, file and artifact ones have the same content


@pytest.mark.parametrize("scheme", ["file", "FILE", "File"])
def test_no_local_file_is_without_a_digest(scheme: str) -> None:
    uri = f"{scheme}:///etc/shadow"
    parsed = parse(
        manifest(
            {
                "none": {"digest": "anything", "ref": uri, "size": 5},
                "right": {"digest": MD5, "ref": uri, "size": 5},
            }
        )
    )
    # Without one its bytes would be shown unchecked.
    assert [path for path, _ in parsed.left_out.report] == ["none"]
    assert entry_of("right", parsed.row("right")).digest == digest_of(MD5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"version": 1}',
        manifest([]),
        manifest({}, version=2),
        manifest({}, storagePolicy="another"),
    ],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="the manifest of e/p/c:v3"):
        parse(data)


@pytest.mark.parametrize(
    "row", ["text", None, {}, {"digest": "x"}, {"digest": MD5, "size": -1}, {"digest": 5}]
)
def test_rows_of_no_use_are_named(row: object) -> None:
    parsed = parse(manifest({"good": {"digest": MD5, "size": 0}, "bad": row}))
    assert parsed.paths == ["good"]
    [(path, reason)] = parsed.left_out.report
    assert path == "bad"
    assert reason.startswith("it can't be read: ")
    assert not parsed.digest_matches


@pytest.mark.parametrize("takes_names", [True, False])
def test_a_use_has_the_names_that_were_used_where_the_server_takes_them(takes_names: bool) -> None:
    asked: list[tuple[str, Mapping[str, str]]] = []

    class Asked:
        def execute(self, query: str, variables: Mapping[str, str], **_: object) -> None:
            asked.append((query, variables))

    class Features:
        def has(self, name: str, deadline: Deadline) -> bool:
            return takes_names

    runs = RunsApi(Asked(), Features())  # type: ignore[arg-type]
    run = Run(entity="team", project="training", name="1a2b")
    runs.use(run, Use(run=run, artifact_id="x", version="org/links/c:v0"), deadline=DEADLINE)
    [(query, variables)] = asked
    names = {"artifactEntityName": "org", "artifactProjectName": "links"} if takes_names else {}
    assert ("artifactEntityName" in query) is takes_names
    assert variables == names | {
        "entityName": "team",
        "projectName": "training",
        "runName": "1a2b",
        "artifactID": "x",
    }

"""The stand-in server's API without the SDK: queries of our own, refusals, uploads, redirects."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from stand_in import StandIn

from wbfs.devserver.api import ApiSettings, create_api
from wbfs.devserver.data.database import Database
from wbfs.devserver.objects.origin import Origin

TIMEOUT_S = 100.0
OWNER, VIEWER, STRANGER = "4" * 40, "5" * 40, "6" * 40
ENTITY, PROJECT = "api-team", "private"

CREATE = """mutation($input: CreateArtifactInput!) {
  createArtifact(input: $input) { artifact { id state versionIndex aliases { alias } } } }"""
FILES = """mutation($input: CreateArtifactFilesInput!) { createArtifactFiles(input: $input) {
  files { edges { node { storagePath uploadUrl uploadHeaders artifact { id }
    uploadMultipartUrls { uploadID uploadUrlParts { partNumber uploadUrl } } } } } } }"""
MANIFEST = """mutation($id: ID!, $digest: String!) { createArtifactManifest(input: {
  artifactID: $id, name: "wandb_manifest.json", digest: $digest, entityName: "", projectName: "",
  type: FULL }) { artifactManifest { id file { uploadUrl } } } }"""
COMMIT = """mutation($id: ID!) { commitArtifact(input: {artifactID: $id}) {
  artifact { id versionIndex state digest size fileCount } } }"""
COMPLETE = """mutation($input: CompleteMultipartUploadArtifactInput!) {
  completeMultipartUploadArtifact(input: $input) { digest } }"""


def b64_md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


class Client:
    """Somebody who speaks GraphQL to the server, or nobody if `api_key` is None."""

    def __init__(self, server: StandIn, api_key: str | None) -> None:
        self.server = server
        self.auth = None if api_key is None else ("api", api_key)

    def post(self, query: str, variables: Mapping[str, Any]) -> requests.Response:
        return requests.post(
            f"{self.server.base_url}/graphql",
            json={"query": query, "variables": variables},
            auth=self.auth,
            timeout=TIMEOUT_S,
        )

    def query(self, query: str, **variables: Any) -> Any:
        answer = self.post(query, variables).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def refusal(self, query: str, **variables: Any) -> str:
        answer = self.post(query, variables)
        assert answer.status_code == 200
        return str(answer.json()["errors"][0]["message"])

    def get(self, path: str) -> requests.Response:
        return requests.get(
            self.server.base_url + path,
            auth=self.auth,
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )

    def create(self, collection: str, digest: str, **more: Any) -> Any:
        values = {
            "entityName": ENTITY,
            "projectName": PROJECT,
            "artifactTypeName": "dataset",
            "artifactCollectionName": collection,
            "digest": digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "aliases": [{"alias": "latest", "artifactCollectionName": collection}],
            "enableDigestDeduplication": True,
        }
        return self.query(CREATE, input=values | more)["createArtifact"]["artifact"]

    def file_slot(self, artifact_id: str, name: str, data: bytes, parts: Any = None) -> Any:
        spec = {"artifactID": artifact_id, "name": name, "md5": b64_md5(data)}
        found = self.query(FILES, input={"artifactFiles": [spec | {"uploadPartsInput": parts}]})
        return found["createArtifactFiles"]["files"]["edges"][0]["node"]

    def upload(self, artifact_id: str, name: str, data: bytes) -> str:
        """Upload a file if it isn't there; return its birth artifact's id."""
        slot = self.file_slot(artifact_id, name, data)
        if slot["uploadUrl"] is not None:
            headers = dict(header.split(":", 1) for header in slot["uploadHeaders"])
            put(slot["uploadUrl"], data, headers)
        return str(slot["artifact"]["id"])

    def write_manifest(self, artifact_id: str, contents: Mapping[str, Any]) -> None:
        manifest = json.dumps(
            {
                "version": 1,
                "storagePolicy": "wandb-storage-policy-v1",
                "storagePolicyConfig": {"storageLayout": "V2"},
                "contents": contents,
            }
        ).encode()
        made = self.query(MANIFEST, id=artifact_id, digest=b64_md5(manifest))
        put(made["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"], manifest)

    def log(self, collection: str, files: Mapping[str, bytes], **more: Any) -> Any:
        """Log an artifact with these files; return what the commit answers."""
        listed = sorted((name, b64_md5(data)) for name, data in files.items())
        artifact = self.create(collection, hashlib.md5(str(listed).encode()).hexdigest(), **more)
        contents = {
            name: {
                "digest": b64_md5(data),
                "size": len(data),
                "birthArtifactID": self.upload(artifact["id"], name, data),
            }
            for name, data in files.items()
        }
        self.write_manifest(artifact["id"], contents)
        return self.query(COMMIT, id=artifact["id"])["commitArtifact"]["artifact"]

    def membership(self, name: str, fields: str) -> Any:
        found = self.query(
            f"""query($entity: String, $project: String, $name: String!) {{
              project(entityName: $entity, name: $project) {{
                found: artifactCollectionMembership(name: $name) {{ {fields} }} }} }}""",
            entity=ENTITY,
            project=PROJECT,
            name=name,
        )
        return found["project"]["found"]


def put(url: str, data: bytes, headers: Mapping[str, str] | None = None) -> str:
    answer = requests.put(url, data=data, headers=headers, timeout=TIMEOUT_S)
    assert answer.ok, answer.text
    return answer.headers["ETag"]


@pytest.fixture(scope="module")
def owner(stand_in: StandIn) -> Client:
    """The owner of a team in which there is also a view-only seat."""
    stand_in.accounts(
        {
            "users": [
                {"name": "api-owner", "api_key": OWNER},
                {"name": "api-viewer", "api_key": VIEWER},
                {"name": "api-stranger", "api_key": STRANGER},
            ],
            "teams": [
                {"name": ENTITY, "members": {"api-owner": "admin", "api-viewer": "view-only"}}
            ],
        }
    )
    return Client(stand_in, OWNER)


def test_nobody_is_viewer_without_a_key(stand_in: StandIn) -> None:
    assert Client(stand_in, None).query("{ viewer { id } }") == {"viewer": None}


def test_a_wrong_key_is_401(stand_in: StandIn) -> None:
    answer = Client(stand_in, "0" * 40).post("{ viewer { id } }", {})
    assert answer.status_code == 401
    assert answer.json()["errors"][0]["message"] == "user is not logged in"
    answer = requests.post(
        f"{stand_in.base_url}/graphql",
        json={"query": "{ viewer { id } }"},
        headers={"Authorization": "Basic ?"},
        timeout=TIMEOUT_S,
    )
    assert answer.status_code == 401


def test_any_query_that_the_schema_allows(owner: Client) -> None:
    owner.log("query", {"a": b"a", "b": b"bb"})
    found = owner.query(
        """query Mine($project: String!, $deep: Boolean = true) {
          me: viewer { ...Who mates: teams { edges { node { called: name } } } }
          here: project(name: $project, entityName: "api-team") {
            artifactCollection(name: "query") {
              kind: __typename
              ... on ArtifactSequence { latestArtifact { size } }
              v: artifactMembership(aliasName: "v0") @include(if: $deep) {
                files(first: 1) { totalCount edges { node { n: name bytes: sizeBytes } } } }
            }
          }
        }
        fragment Who on User { username }""",
        project=PROJECT,
    )
    assert found == {
        "me": {
            "username": "api-owner",
            "mates": {"edges": [{"node": {"called": "api-owner"}}, {"node": {"called": ENTITY}}]},
        },
        "here": {
            "artifactCollection": {
                "kind": "ArtifactSequence",
                "latestArtifact": {"size": 3},
                "v": {"files": {"totalCount": 2, "edges": [{"node": {"n": "a", "bytes": 1}}]}},
            }
        },
    }
    assert owner.post("{ viewer { shoeSize } }", {}).status_code == 400
    assert owner.post("{ viewer {", {}).status_code == 400


def test_unknown_and_forbidden_projects_answer_alike(owner: Client) -> None:
    owner.log("hidden", {"a": b"a"})
    query = """query($e: String) {
      project(entityName: $e, name: "private") { id } entity(name: $e) { id } }"""
    for client in (Client(owner.server, STRANGER), Client(owner.server, None)):
        for entity in (ENTITY, "no-such-entity"):
            assert client.query(query, e=entity) == {"project": None, "entity": None}
    assert Client(owner.server, VIEWER).query(query, e=ENTITY)["project"] is not None


def test_roles_in_a_project(owner: Client) -> None:
    publish = """mutation($access: String) { upsertModel(input: {entityName: "api-team",
      name: "members", access: $access}) { project { id } } }"""
    project = owner.query(publish, access="RESTRICTED")["upsertModel"]["project"]["id"]
    look = """{ project(entityName: "api-team", name: "members") { name readOnly
      members { username role { name } } } }"""
    stranger = Client(owner.server, STRANGER)
    assert stranger.query(look) == {"project": None}
    user = stranger.query("{ viewer { id } }")["viewer"]["id"]
    add = """mutation($p: ID!, $u: ID!) {
      createProjectMembers(input: {projectId: $p, userIds: [$u]}) { success } }"""
    change = """mutation($p: ID!, $u: ID!) { updateProjectMember(input: {projectId: $p, userId: $u,
      userProjectRole: "member"}) { success } }"""
    assert "project not found" in stranger.refusal(add, p=project, u=user)
    assert owner.query(add, p=project, u=user) == {"createProjectMembers": {"success": True}}
    assert "permission denied" in stranger.refusal(change, p=project, u=user)
    for role, read_only in (("restricted_viewer", True), ("member", False)):
        member = {"username": "api-stranger", "role": {"name": role}}
        shown = {"name": "members", "readOnly": read_only, "members": [member]}
        assert stranger.query(look) == {"project": shown}
        owner.query(change, p=project, u=user)
    stranger.log("theirs", {"a": b"a"}, projectName="members")
    remove = add.replace("createProjectMembers", "deleteProjectMembers")
    owner.query(remove, p=project, u=user)
    assert stranger.query(look) == {"project": None}


def test_a_public_project_is_read_by_everybody(owner: Client) -> None:
    publish = """mutation { upsertModel(input: {entityName: "api-team", name: "public",
      access: "USER_READ"}) { inserted project { access } } }"""
    assert owner.query(publish)["upsertModel"]["project"] == {"access": "USER_READ"}
    owner.log("open", {"a": b"open to all"}, projectName="public")
    stranger = Client(owner.server, STRANGER)
    found = stranger.query(
        """{ project(entityName: "api-team", name: "public") {
          readOnly
          artifactCollectionMembership(name: "open") { files { edges { node { directUrl } } } }
        } }"""
    )["project"]
    assert found["readOnly"] is True
    node = found["artifactCollectionMembership"]["files"]["edges"][0]["node"]
    assert requests.get(node["directUrl"], timeout=TIMEOUT_S).content == b"open to all"
    values = {"entityName": ENTITY, "projectName": "public", "artifactTypeName": "dataset"}
    values |= {"artifactCollectionName": "x", "digest": "x", "digestAlgorithm": "MANIFEST_MD5"}
    assert stranger.refusal(CREATE, input=values).startswith("permission denied")


def test_a_membership_by_every_kind_of_name(owner: Client) -> None:
    first = owner.log(
        "names",
        {"a": b"1"},
        aliases=[
            {"alias": "latest", "artifactCollectionName": "names"},
            {"alias": "old", "artifactCollectionName": "names"},
        ],
    )
    owner.log("names", {"a": b"2"})
    for name in ("names:v0", "names:old", f"names:{first['digest']}"):
        assert owner.membership(name, "versionIndex artifact { id }") == {
            "versionIndex": 0,
            "artifact": {"id": first["id"]},
        }
    for name in ("names", "names:latest", "names:v1"):
        assert owner.membership(name, "versionIndex") == {"versionIndex": 1}
    for name in ("names:v2", "names:none", "none", "none:v0"):
        assert owner.membership(name, "versionIndex") is None


def test_pages(owner: Client) -> None:
    for number in range(5):
        owner.log("pages", {"n": str(number).encode()})
    query = """query($after: String, $first: Int) {
      project(entityName: "api-team", name: "private") { artifactCollection(name: "pages") {
        artifacts(first: $first, after: $after) {
          totalCount pageInfo { endCursor hasNextPage } edges { version } } } } }"""
    seen, after, pages = [], None, 0
    while True:
        found = owner.query(query, first=2, after=after)
        page = found["project"]["artifactCollection"]["artifacts"]
        assert page["totalCount"] == 5
        seen += [edge["version"] for edge in page["edges"]]
        after, pages = page["pageInfo"]["endCursor"], pages + 1
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == ["v4", "v3", "v2", "v1", "v0"]
    assert pages == 3
    assert owner.refusal(query, first=2, after="bm9uc2Vuc2U=") == "invalid cursor"
    assert owner.refusal(query, first=-1, after=None) == "first must not be negative"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"state": "COMMITTED"}, [0, 1, 2, 3]),
        ({"version": "v2"}, [2]),
        ({"versionIndex": {"$gte": 1, "$lt": 3}}, [1, 2]),
        ({"alias": "latest"}, [3]),
        ({"alias": {"$in": ["latest", "a1"]}}, [1, 3]),
        ({"tag": "even"}, [0, 2]),
        ({"tag": {"$ne": "even"}}, [1, 3]),
        ({"metadata.number": 2}, [2]),
        ({"metadata.number": {"$exists": False}}, [3]),
        ({"$or": [{"version": "v0"}, {"metadata.number": {"$gt": 1}}]}, [0, 2]),
        ({"$not": {"tag": "even"}}, [1, 3]),
        ({"$and": [{"tag": "even"}, {"version": {"$regex": "^v[1-9]$"}}]}, [2]),
    ],
)
def test_filters(owner: Client, filters: Any, expected: list[int]) -> None:
    for number in range(4):
        owner.log(
            "filters",
            {"n": str(number).encode()},
            metadata=json.dumps({"number": number} if number < 3 else {}),
            tags=[{"tagName": "even"}] if number % 2 == 0 else [],
            aliases=[
                {"alias": alias, "artifactCollectionName": "filters"}
                for alias in ("latest", f"a{number}")
            ],
        )
    query = """query($filters: JSONString) { project(entityName: "api-team", name: "private") {
      artifactCollection(name: "filters") { artifacts(filters: $filters, order: "+versionIndex") {
        edges { version } } } } }"""
    found = owner.query(query, filters=json.dumps(filters))
    edges = found["project"]["artifactCollection"]["artifacts"]["edges"]
    assert [edge["version"] for edge in edges] == [f"v{number}" for number in expected]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ('{"shoe": 1}', "unknown field: 'shoe'"),
        ('{"state": {"$like": "C%"}}', "unknown filter operator: '$like'"),
        ("{", "filters: "),
        ("[]", "a filter is a JSON object"),
    ],
)
def test_filters_that_make_no_sense(owner: Client, filters: str, message: str) -> None:
    owner.log("filters", {"n": b"0"})
    query = """query($filters: JSONString) { project(entityName: "api-team", name: "private") {
      artifactCollection(name: "filters") { artifacts(filters: $filters) { totalCount } } } }"""
    assert owner.refusal(query, filters=filters).startswith(message)


def test_create_artifact_is_idempotent_by_client_id(owner: Client) -> None:
    first = owner.create("client", "d1", clientID="client-1")
    again = owner.create("client", "d1", clientID="client-1")
    other = owner.create("client", "d1", clientID="client-2")
    assert first["id"] == again["id"] != other["id"]
    mapping = owner.query(
        'query { clientIDMapping(clientID: "client-2") { serverID } none: clientIDMapping('
        'clientID: "x") { serverID } }'
    )
    assert mapping == {"clientIDMapping": {"serverID": other["id"]}, "none": None}


def test_aliases_move_when_a_version_is_committed(owner: Client) -> None:
    first = owner.log("moves", {"a": b"1"})
    pending = owner.create("moves", "pending")
    assert pending["state"] == "PENDING"
    assert owner.membership("moves:latest", "artifact { id }") == {"artifact": {"id": first["id"]}}
    owner.write_manifest(pending["id"], {})
    committed = owner.query(COMMIT, id=pending["id"])["commitArtifact"]["artifact"]
    assert committed["versionIndex"] == 1
    assert owner.membership("moves:latest", "versionIndex") == {"versionIndex": 1}


def test_the_same_content_is_committed_already(owner: Client) -> None:
    first = owner.log("dedupe", {"a": b"1"})
    owner.log("dedupe", {"a": b"2"})
    same = owner.create("dedupe", first["digest"])
    assert (same["id"], same["state"], same["versionIndex"]) == (first["id"], "COMMITTED", 0)
    assert same["aliases"] == [{"alias": "latest"}]
    forced = owner.create("dedupe", first["digest"], enableDigestDeduplication=False)
    assert forced["state"] == "PENDING"
    assert owner.create("elsewhere", first["digest"])["state"] == "PENDING"


def test_a_commit_needs_what_its_manifest_names(owner: Client) -> None:
    artifact = owner.create("incomplete", "i")
    assert owner.refusal(COMMIT, id=artifact["id"]) == "artifact has no manifest"
    entry = {"digest": b64_md5(b"never uploaded"), "size": 14}
    owner.write_manifest(artifact["id"], {"missing": entry})
    assert owner.refusal(COMMIT, id=artifact["id"]) == "file 'missing' was not uploaded"
    owner.query(MANIFEST, id=artifact["id"], digest=b64_md5(b"other"))
    assert owner.refusal(COMMIT, id=artifact["id"]) == "manifest was not uploaded"
    assert owner.membership("incomplete", "id") is None


def test_upload_in_parts(owner: Client, tmp_path: Path) -> None:
    """The SDK uploads in parts from 2 GiB on, so here its steps are taken one by one."""
    pieces = [b"a" * (1 << 20), b"b" * (1 << 20), b"the rest"]
    data = b"".join(pieces)
    announced = [
        {"partNumber": number, "hexMD5": hashlib.md5(piece).hexdigest()}
        for number, piece in enumerate(pieces, 1)
    ]
    artifact = owner.create("parts", "parts")
    slot = owner.file_slot(artifact["id"], "big.bin", data, announced)
    urls = slot["uploadMultipartUrls"]["uploadUrlParts"]
    assert [url["partNumber"] for url in urls] == [1, 2, 3]
    etags = [put(url["uploadUrl"], piece) for url, piece in zip(urls, pieces, strict=True)]
    complete = {
        "completeMultipartAction": "Complete",
        "artifactID": artifact["id"],
        "storagePath": slot["storagePath"],
        "uploadID": slot["uploadMultipartUrls"]["uploadID"],
        "completedParts": [
            {"partNumber": number, "hexMD5": etag} for number, etag in enumerate(etags, 1)
        ],
    }
    swapped = [dict(part) for part in complete["completedParts"]]
    swapped[0]["hexMD5"], swapped[1]["hexMD5"] = swapped[1]["hexMD5"], swapped[0]["hexMD5"]
    assert "part 1" in owner.refusal(COMPLETE, input=complete | {"completedParts": swapped})
    done = owner.query(COMPLETE, input=complete)
    assert done == {"completeMultipartUploadArtifact": {"digest": b64_md5(data)}}

    entry = {"digest": b64_md5(data), "size": len(data), "birthArtifactID": artifact["id"]}
    owner.write_manifest(artifact["id"], {"big.bin": entry})
    owner.query(COMMIT, id=artifact["id"])
    command = [sys.executable, "-m", "wandb", "artifact", "get", "--root", str(tmp_path / "got")]
    done_get = subprocess.run(
        [*command, f"{ENTITY}/{PROJECT}/parts:latest"],
        env=owner.server.env(tmp_path / "home", api_key=OWNER),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done_get.returncode == 0, done_get.stderr
    assert (tmp_path / "got/big.bin").read_bytes() == data


def test_files_without_an_expiring_url(owner: Client) -> None:
    data = b"through the API"
    artifact = owner.log("redirects", {"folder/some file.txt": data})
    digest_hex = hashlib.md5(data).hexdigest()
    quoted = artifact["id"].replace("=", "%3D")
    collection = f"{ENTITY}/{PROJECT}/redirects"
    paths = [
        f"/artifactsV2/default/{collection}/{quoted}/{quoted}/{digest_hex}/some file.txt",
        f"/artifactsV2/default/{collection}/{quoted}/{digest_hex}/some file.txt",
        f"/artifacts/{ENTITY}/{digest_hex}",
    ]
    for path in paths:
        answer = owner.get(path)
        assert answer.status_code == 302
        assert requests.get(answer.headers["Location"], timeout=TIMEOUT_S).content == data
        assert Client(owner.server, None).get(path).status_code == 401
        assert Client(owner.server, VIEWER).get(path).status_code == 403
        assert Client(owner.server, STRANGER).get(path).status_code == 404
        assert owner.get(path.replace(digest_hex, "0" * 32)).status_code == 404
        assert owner.get(path.replace(digest_hex, "nonsense")).status_code == 404

    files = "files { edges { node { directUrl url(upload: false) storagePath } } }"
    node = owner.membership("redirects", files)["files"]["edges"][0]["node"]
    assert requests.get(node["directUrl"], timeout=TIMEOUT_S).content == data
    assert requests.get(node["url"], auth=owner.auth, timeout=TIMEOUT_S).content == data
    assert node["storagePath"].startswith("wandb_artifacts/")


def test_a_view_only_seat_gets_errors_for_urls_alone(owner: Client) -> None:
    owner.log("seat", {"a": b"a"})
    answer = Client(owner.server, VIEWER).post(
        """{ project(entityName: "api-team", name: "private") {
          artifactCollectionMembership(name: "seat") {
            artifact { currentManifest { file { directUrl } } }
            files { edges { node { name directUrl } } } } } }""",
        {},
    )
    body = answer.json()
    found = body["data"]["project"]["artifactCollectionMembership"]
    assert found["files"]["edges"] == [{"node": {"name": "a", "directUrl": None}}]
    assert [error["message"].split(":")[0] for error in body["errors"]] == ["permission denied"]
    manifest = requests.get(
        found["artifact"]["currentManifest"]["file"]["directUrl"], timeout=TIMEOUT_S
    )
    assert list(manifest.json()["contents"]) == ["a"]


def test_deleted_bytes_are_kept_for_those_who_share_them(owner: Client) -> None:
    shared, own = b"in two artifacts", b"in one artifact"
    first = owner.log("deleted", {"shared": shared, "own": own})
    owner.log("kept", {"shared": shared})
    paths = [f"/artifacts/{ENTITY}/{hashlib.md5(data).hexdigest()}" for data in (shared, own)]
    urls = [owner.get(path).headers["Location"] for path in paths]
    delete = """mutation($id: ID!, $with: Boolean) { deleteArtifact(input: {
      artifactID: $id, deleteAliases: $with }) { artifact { state } } }"""
    assert "has aliases" in owner.refusal(delete, id=first["id"])
    deleted = owner.query(delete, id=first["id"], **{"with": True})
    assert deleted == {"deleteArtifact": {"artifact": {"state": "DELETED"}}}
    assert [requests.get(url, timeout=TIMEOUT_S).status_code for url in urls] == [200, 404]
    assert [owner.get(path).status_code for path in paths] == [302, 404]
    assert owner.membership("deleted", "id") is None
    again = owner.log("deleted", {"shared": shared, "own": own})
    assert again["versionIndex"] == 1


def test_a_run_streams_its_lines(owner: Client) -> None:
    owner.query(
        """mutation { upsertBucket(input: {name: "streams", modelName: "private",
          entityName: "api-team", config: "{}"}) { inserted bucket { name } } }"""
    )
    url = f"{owner.server.base_url}/files/{ENTITY}/{PROJECT}/streams/file_stream"
    lines = ['{"_step": 0, "loss": 1}', '{"_step": 1, "loss": 0.5}']
    messages = [
        {"files": {"wandb-history.jsonl": {"offset": 0, "content": lines}}},
        {"files": {"wandb-history.jsonl": {"offset": 1, "content": lines[1:]}}},
        {"files": {"wandb-summary.json": {"offset": 0, "content": ['{"loss": 0.5}']}}},
        {"complete": True, "exitcode": 0},
    ]
    for message in messages:
        answer = requests.post(
            url,
            data=gzip.compress(json.dumps(message).encode()),
            headers={"Content-Encoding": "gzip"},
            auth=owner.auth,
            timeout=TIMEOUT_S,
        )
        assert answer.ok, answer.text
    run = owner.query(
        """{ project(entityName: "api-team", name: "private") { run(name: "streams") {
          state summaryMetrics historyLineCount history(minStep: 1) historyKeys } } }"""
    )["project"]["run"]
    assert run == {
        "state": "finished",
        "summaryMetrics": '{"loss": 0.5}',
        "historyLineCount": 2,
        "history": lines[1:],
        "historyKeys": {"keys": {"_step": {}, "loss": {}}},
    }
    unknown = requests.post(
        url.replace("streams", "unknown"), json={}, auth=owner.auth, timeout=TIMEOUT_S
    )
    assert unknown.status_code == 404


def test_accounts_are_declared_by_administrators(owner: Client) -> None:
    url = f"{owner.server.base_url}/_devserver/accounts"

    def declare(document: Any, auth: Any) -> requests.Response:
        return requests.put(url, json=document, auth=auth, timeout=TIMEOUT_S)

    admin = ("api", owner.server.api_key)
    document = {
        "users": [{"name": "declared", "api_key": "8" * 40}],
        "teams": [{"name": "declared-team", "members": {"declared": "member"}}],
        "organizations": [{"name": "Declared", "teams": ["declared-team"]}],
    }
    assert declare(document, None).status_code == 401
    assert declare(document, owner.auth).status_code == 403
    for _ in range(2):
        assert declare(document, admin).status_code == 200
    declared = Client(owner.server, "8" * 40)
    query = """{ viewer { teams { edges { node { name organization { name } } } }
      organizations { name featureFlags(rampIDType: OrgName) { rampKey isEnabled }
        orgEntity { name projects { edges { node { name } } } } } } }"""
    assert declared.query(query)["viewer"] == {
        "teams": {
            "edges": [
                {"node": {"name": "declared", "organization": None}},
                {"node": {"name": "declared-team", "organization": {"name": "Declared"}}},
            ]
        },
        "organizations": [
            {
                "name": "Declared",
                "featureFlags": [],
                "orgEntity": {
                    "name": "Declared-org",
                    "projects": {
                        "edges": [
                            {"node": {"name": "wandb-registry-dataset"}},
                            {"node": {"name": "wandb-registry-model"}},
                        ]
                    },
                },
            }
        ],
    }
    assert declare({"users": [{"name": "x", "shoe": 1}]}, admin).status_code == 400
    assert declare({"teams": [{"name": "declared"}]}, admin).status_code == 400
    assert declare({"teams": [{"name": "t", "members": {"x": "king"}}]}, admin).status_code == 400
    removed = {"teams": [{"name": "declared-team", "members": {}}]}
    assert declare(removed, admin).status_code == 200
    assert declared.query("{ viewer { teams { edges { node { name } } } } }")["viewer"] == {
        "teams": {"edges": [{"node": {"name": "declared"}}]}
    }
    elsewhere = {"users": [{"name": "declared", "default_entity": "declared-team"}]}
    assert declare(elsewhere, admin).status_code == 400


async def test_features_can_be_off(tmp_path: Path) -> None:
    database = Database(tmp_path / "api.sqlite")
    app = create_api(
        database=database,
        origin=Origin(tmp_path, base_url=lambda: "http://files.invalid"),
        base_url="http://api.invalid",
        settings=ApiSettings(
            admin_api_key="a" * 40,
            features={"CLIENT_IDS": False},
            xxhash_digests_enabled=False,
        ),
    )
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        query = "{ serverInfo { features { name isEnabled } } }"
        return {"type": "http.request", "body": json.dumps({"query": query}).encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/graphql",
        "headers": [],
        "query_string": b"",
    }
    await app(scope, receive, send)
    database.close()
    assert sent[0]["status"] == 200
    body = json.loads(sent[1]["body"])
    features = {row["name"]: row["isEnabled"] for row in body["data"]["serverInfo"]["features"]}
    assert features["CLIENT_IDS"] is False
    assert features["ARTIFACT_TAGS"] is True

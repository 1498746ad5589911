"""Versions with very many entries, put on a stand-in server in seconds.

By the requests that the SDK makes, but not by the SDK: it takes minutes for a million files.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests
from stand_in import StandIn

TIMEOUT_S = 180.0
"""The server takes its time to commit a million entries."""
CONTENTS = tuple(f"content {number}\n".encode() * 4 for number in range(16))
"""What is in the files, in turns."""
LARGE_FOLDER = "large"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedVersion:
    """What was logged: `source` is `entity/project/artifact:v0`; sizes are in bytes."""

    source: str
    id: str
    files: int
    folders: int
    manifest_size: int


def log_version_of(
    stand_in: StandIn,
    name: str,
    *,
    folders: int,
    files_per_folder: int,
    large_folder: int = 0,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    project: str = "large-manifests",
    entity: str = "admin",
) -> LoggedVersion:
    """Log the first version of the artifact `name`, a dataset; return what it is.

    It has `folders` folders, `folder-0000/` and on, of `files_per_folder` files each, and beside
    them, where `large_folder` is not 0, the folder `large/` of so many files. The files are those
    of `file_name`, with one of `CONTENTS` each. `extra` are more rows of the manifest by path, as
    they are to be written.
    """
    client = Client(stand_in)
    rest = dict(extra or {})

    def paths() -> Iterator[str]:
        for folder in range(folders):
            for number in range(files_per_folder):
                yield f"{folder_name(folder)}/{file_name(number)}"
        for number in range(large_folder):
            yield f"{LARGE_FOLDER}/{file_name(number)}"

    digests = [md5(content) for content in CONTENTS]
    hasher = hashlib.md5(b"wandb-artifact-manifest-v1\n", usedforsecurity=False)
    by_path = {path: digests[number % len(digests)] for number, path in enumerate(paths())}
    by_path |= {path: str(row["digest"]) for path, row in rest.items() if "digest" in row}
    for path in sorted(by_path):
        hasher.update(f"{path}:{by_path[path]}\n".encode())
    client.do(
        "upsertModel", "UpsertModelInput", {"entityName": entity, "name": project}, "__typename"
    )
    artifact_id: str = client.do(
        "createArtifact",
        "CreateArtifactInput",
        {
            "entityName": entity,
            "projectName": project,
            "artifactTypeName": "dataset",
            "artifactCollectionName": name,
            "digest": hasher.hexdigest(),
            "digestAlgorithm": "MANIFEST_MD5",
            "aliases": [{"artifactCollectionName": name, "alias": "latest"}],
        },
        "artifact { id }",
    )["artifact"]["id"]
    births = client.upload_contents(artifact_id)
    rows = [
        json.dumps({"digest": digest, "birthArtifactID": birth, "size": len(content)})
        for digest, birth, content in zip(digests, births, CONTENTS, strict=True)
    ]
    lines = [
        f"{json.dumps(path)}:{rows[number % len(rows)]}" for number, path in enumerate(paths())
    ]
    lines += [f"{json.dumps(path)}:{json.dumps(row)}" for path, row in rest.items()]
    manifest = (
        '{"version":1,"storagePolicy":"wandb-storage-policy-v1",'
        '"storagePolicyConfig":{"storageLayout":"V2"},"contents":{' + ",".join(lines) + "}}"
    ).encode()
    file = client.do(
        "createArtifactManifest",
        "CreateArtifactManifestInput",
        {
            "entityName": entity,
            "projectName": project,
            "artifactID": artifact_id,
            "name": "wandb_manifest.json",
            "digest": md5(manifest),
        },
        "artifactManifest { file { uploadUrl uploadHeaders } }",
    )["artifactManifest"]["file"]
    client.upload(file, manifest)
    client.do(
        "commitArtifact", "CommitArtifactInput", {"artifactID": artifact_id}, "artifact { id }"
    )
    return LoggedVersion(
        source=f"{entity}/{project}/{name}:v0",
        id=artifact_id,
        files=len(lines),
        folders=folders + bool(large_folder),
        manifest_size=len(manifest),
    )


def folder_name(number: int) -> str:
    """Return the name of one of the folders."""
    return f"folder-{number:04}"


def file_name(number: int) -> str:
    """Return the name of one of a folder's files, of the length that recorders give theirs."""
    return f"recording-{number:08}-2024-05-17-front-left-camera-rectified.jpeg"


class Client:
    """The administrator's requests to a stand-in server."""

    def __init__(self, server: StandIn) -> None:
        self._server = server
        self._session = requests.Session()
        # A proxy of the environment is not for loopback.
        self._session.trust_env = False

    def do(self, name: str, kind: str, value: Mapping[str, Any], answer: str) -> Any:
        """Do one mutation and return what it answers."""
        response = self._session.post(
            f"{self._server.base_url}/graphql",
            auth=("api", self._server.api_key),
            json={
                "query": f"mutation Log($i: {kind}!) {{ {name}(input: $i) {{ {answer} }} }}",
                "variables": {"i": value},
            },
            timeout=TIMEOUT_S,
        )
        body = response.json()
        assert not body.get("errors"), body["errors"]
        return body["data"][name]

    def upload(self, target: Mapping[str, Any], data: bytes) -> None:
        """Send a file to where the server wants it."""
        headers = dict(header.split(":", 1) for header in target["uploadHeaders"] or ())
        self._session.put(
            target["uploadUrl"], data=data, headers=headers, timeout=TIMEOUT_S
        ).raise_for_status()

    def upload_contents(self, artifact_id: str) -> list[str]:
        """Upload what the project lacks of `CONTENTS`; return the artifacts that have it."""
        specs = [
            {"artifactID": artifact_id, "name": f"{number}", "md5": digest, "digest": digest}
            for number, digest in enumerate(map(md5, CONTENTS))
        ]
        edges = self.do(
            "createArtifactFiles",
            "CreateArtifactFilesInput",
            {"artifactFiles": specs, "storageLayout": "V2"},
            "files { edges { node { uploadUrl uploadHeaders artifact { id } } } }",
        )["files"]["edges"]
        for edge, content in zip(edges, CONTENTS, strict=True):
            if edge["node"]["uploadUrl"]:
                self.upload(edge["node"], content)
        return [edge["node"]["artifact"]["id"] for edge in edges]


def md5(data: bytes) -> str:
    """Return the MD5 of bytes as manifests have it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()

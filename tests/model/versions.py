"""Versions with any content, put on a stand-in server fast, and their aliases.

By the requests that the SDK makes, but not by the SDK, which takes seconds for each.
"""

from __future__ import annotations

from contents import Files, data, digest
from large_manifest import Client, md5
from stand_in import StandIn

from wbfs.devserver.data.manifests import artifact_digest, serialize_manifest

ENTITY, PROJECT = "admin", "model"


class Versions:
    """What logs versions, as the server's administrator."""

    def __init__(self, server: StandIn) -> None:
        self._client = Client(server)
        self._ids: dict[tuple[str, str], str] = {}
        project = {"entityName": ENTITY, "name": PROJECT}
        self._client.do("upsertModel", "UpsertModelInput", project, "__typename")

    def log(self, collection: str, files: Files) -> str:
        """Log a version with such files; return its name, as `v3`. It becomes `latest`."""
        contents = {
            path: {"digest": digest(content), "size": content.size}
            for path, content in files.items()
        }
        artifact_id: str = self._client.do(
            "createArtifact",
            "CreateArtifactInput",
            {
                "entityName": ENTITY,
                "projectName": PROJECT,
                "artifactTypeName": "dataset",
                "artifactCollectionName": collection,
                "digest": artifact_digest(contents, "MANIFEST_MD5"),
                "digestAlgorithm": "MANIFEST_MD5",
                "aliases": [{"artifactCollectionName": collection, "alias": "latest"}],
            },
            "artifact { id }",
        )["artifact"]["id"]
        births = self._upload(artifact_id, files)
        for path, content in files.items():
            contents[path]["birthArtifactID"] = births[digest(content)]
        manifest = serialize_manifest(contents, "V2")
        target = self._client.do(
            "createArtifactManifest",
            "CreateArtifactManifestInput",
            {
                "entityName": ENTITY,
                "projectName": PROJECT,
                "artifactID": artifact_id,
                "name": "wandb_manifest.json",
                "digest": md5(manifest),
            },
            "artifactManifest { file { uploadUrl uploadHeaders } }",
        )["artifactManifest"]["file"]
        self._client.upload(target, manifest)
        index: int = self._client.do(
            "commitArtifact",
            "CommitArtifactInput",
            {"artifactID": artifact_id},
            "artifact { versionIndex }",
        )["artifact"]["versionIndex"]
        self._ids[collection, f"v{index}"] = artifact_id
        return f"v{index}"

    def _upload(self, artifact_id: str, files: Files) -> dict[str, str]:
        """Upload what the project lacks; return the artifacts that have it, by digest."""
        contents = list({digest(content): content for content in files.values()}.values())
        specs = [
            {
                "artifactID": artifact_id,
                "name": f"{digest(content)}",
                "md5": digest(content),
                "digest": digest(content),
            }
            for content in contents
        ]
        edges = self._client.do(
            "createArtifactFiles",
            "CreateArtifactFilesInput",
            {"artifactFiles": specs, "storageLayout": "V2"},
            "files { edges { node { uploadUrl uploadHeaders artifact { id } } } }",
        )["files"]["edges"]
        births = {}
        for edge, content in zip(edges, contents, strict=True):
            if edge["node"]["uploadUrl"]:
                self._client.upload(edge["node"], data(content))
            births[digest(content)] = edge["node"]["artifact"]["id"]
        return births

    def set_alias(self, collection: str, alias: str, version: str) -> None:
        """Give the alias to a version; it had it itself, or another, or nobody."""
        self._change_alias("addAliases", "AddAliasesInput", collection, alias, version)

    def delete_alias(self, collection: str, alias: str, version: str) -> None:
        """Take the alias away from the version that has it."""
        self._change_alias("deleteAliases", "DeleteAliasesInput", collection, alias, version)

    def _change_alias(
        self, mutation: str, kind: str, collection: str, alias: str, version: str
    ) -> None:
        place = {
            "alias": alias,
            "artifactCollectionName": collection,
            "entityName": ENTITY,
            "projectName": PROJECT,
        }
        artifact_id = self._ids[collection, version]
        self._client.do(mutation, kind, {"artifactID": artifact_id, "aliases": [place]}, "success")

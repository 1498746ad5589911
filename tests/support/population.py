"""Many projects, artifacts and versions on the stand-in server, put there fast.

Through the server's own API with the mutations that the SDK sends, hundreds in one request: the SDK
itself takes a tenth of a second for each version.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import requests
from stand_in import StandIn

from wbfs.devserver.data.manifests import artifact_digest, serialize_manifest

BATCH = 250
TIMEOUT_S = 30.0

Contents = dict[str, dict[str, Any]]


class Population:
    """What populates a stand-in server, as its administrator."""

    def __init__(self, server: StandIn) -> None:
        self._server = server
        self._session = requests.Session()
        # A proxy of the environment is not for loopback.
        self._session.trust_env = False

    def add_projects(self, entity: str, names: Iterable[str]) -> None:
        """Make empty projects of an entity."""
        inputs = ({"entityName": entity, "name": name} for name in names)
        self._mutate("upsertModel", "UpsertModelInput", inputs, "model { id }")

    def rename_project(self, entity: str, old: str, new: str) -> None:
        """Give a project another name."""
        names = {"entityName": entity, "oldProjectName": old, "newProjectName": new}
        self._mutate("renameProject", "RenameProjectInput", [names], "project { id }")

    def rename_artifact(self, entity: str, project: str, old: str, new: str) -> None:
        """Give an artifact, which isn't one of links, another name."""
        query = f'''{{ project(name: "{project}", entityName: "{entity}") {{
            artifactCollection(name: "{old}") {{ id }} }} }}'''
        found = self._post(query, {})["project"]["artifactCollection"]["id"]
        names = {"artifactSequenceID": found, "name": new}
        self._mutate(
            "updateArtifactSequence",
            "UpdateArtifactSequenceInput",
            [names],
            "artifactCollection { id }",
        )

    def begin_artifacts(
        self, entity: str, project: str, names: Sequence[str], types: Sequence[str]
    ) -> None:
        """Begin to log an artifact for each name, as a run does before it uploads any file.

        They are listed, and have no version yet; types take turns.
        """
        self._create(entity, project, names, types, [{} for _ in names])

    def add_versions(self, entity: str, project: str, collection: str, count: int) -> list[str]:
        """Log versions of one artifact, each of one file: a reference that leads nowhere.

        Return their ids.
        """
        contents: list[Contents] = [
            {"file": {"digest": f"{number}", "ref": f"http://127.0.0.1:9/{number}", "size": 1}}
            for number in range(count)
        ]
        ids = self._create(entity, project, [collection] * count, ["dataset"], contents)
        files = [serialize_manifest(one, "V2") for one in contents]
        manifests = self._mutate(
            "createArtifactManifest",
            "CreateArtifactManifestInput",
            (
                {
                    "entityName": entity,
                    "projectName": project,
                    "artifactID": artifact_id,
                    "name": "wandb_manifest.json",
                    "digest": base64.b64encode(hashlib.md5(file).digest()).decode(),
                }
                for artifact_id, file in zip(ids, files, strict=True)
            ),
            "artifactManifest { file { uploadUrl uploadHeaders } }",
        )
        for manifest, file in zip(manifests, files, strict=True):
            self._upload(manifest["artifactManifest"]["file"], file)
        commits = ({"artifactID": artifact_id} for artifact_id in ids)
        self._mutate("commitArtifact", "CommitArtifactInput", commits, "artifact { id }")
        return ids

    def _create(
        self,
        entity: str,
        project: str,
        names: Sequence[str],
        types: Sequence[str],
        contents: Sequence[Contents],
    ) -> list[str]:
        inputs = (
            {
                "entityName": entity,
                "projectName": project,
                "artifactTypeName": types[number % len(types)],
                "artifactCollectionName": name,
                "digest": artifact_digest(contents[number], "MANIFEST_MD5"),
                "digestAlgorithm": "MANIFEST_MD5",
                "aliases": [{"artifactCollectionName": name, "alias": "latest"}],
            }
            for number, name in enumerate(names)
        )
        created = self._mutate("createArtifact", "CreateArtifactInput", inputs, "artifact { id }")
        return [one["artifact"]["id"] for one in created]

    def _upload(self, target: Mapping[str, Any], file: bytes) -> None:
        headers = dict(header.split(":", 1) for header in target["uploadHeaders"])
        self._session.put(
            target["uploadUrl"], data=file, headers=headers, timeout=TIMEOUT_S
        ).raise_for_status()

    def _mutate(
        self, name: str, kind: str, inputs: Iterable[Mapping[str, Any]], answer: str
    ) -> list[Any]:
        """Do a mutation for each input; return what they answer."""
        rest = iter(inputs)
        answers: list[Any] = []
        while batch := list(islice(rest, BATCH)):
            declared = ", ".join(f"$i{number}: {kind}!" for number in range(len(batch)))
            fields = " ".join(
                f"m{number}: {name}(input: $i{number}) {{ {answer} }}"
                for number in range(len(batch))
            )
            data = self._post(
                f"mutation Populate({declared}) {{ {fields} }}",
                {f"i{number}": one for number, one in enumerate(batch)},
            )
            answers += [data[f"m{number}"] for number in range(len(batch))]
        return answers

    def _post(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data that the server answers with."""
        response = self._session.post(
            f"{self._server.base_url}/graphql",
            auth=("api", self._server.api_key),
            json={"query": query, "variables": variables},
            timeout=TIMEOUT_S,
        )
        body = json.loads(response.content)
        assert not body.get("errors"), body["errors"][:1]
        data: dict[str, Any] = body["data"]
        return data

"""The artifacts' way into the stand-in server: with the SDK, or past it where they are many files.

The SDK takes minutes for tens of thousands of files. Past it, the files become hard links in the
server's folder, where an upload would have put them, and only the manifest is uploaded.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import requests
from mounts import run
from stand_in import StandIn

from benchmark.programs import PROJECT, READERS_RUN
from benchmark.site.data import files_below
from wbfs.devserver.data.ids import decode_id
from wbfs.devserver.data.manifests import artifact_digest, serialize_manifest

LOG_TIMEOUT_S = 900.0
CALL_TIMEOUT_S = 300.0
ALGORITHM = "MANIFEST_MD5"
LOG = """
import sys
import wandb
with wandb.init(project=sys.argv[1]) as run:
    for name in sys.argv[4:]:
        artifact = wandb.Artifact(name, type="dataset")
        artifact.add_dir(f"{sys.argv[3]}/{name}", policy="immutable", skip_cache=True)
        run.log_artifact(artifact).wait(600)
    print(run.entity)
wandb.init(project=sys.argv[1], id=sys.argv[2]).finish()
"""
PROJECT_ID = """
query($entity: String!, $name: String!) { project(entityName: $entity, name: $name) { id } }
"""
CREATE = """
mutation($input: CreateArtifactInput!) { done: createArtifact(input: $input) { artifact { id } } }
"""
ADD_MANIFEST = """
mutation($input: CreateArtifactManifestInput!) {
    done: createArtifactManifest(input: $input) {
        artifactManifest { file { uploadUrl uploadHeaders } }
    }
}
"""
COMMIT = """
mutation($input: CommitArtifactInput!) { done: commitArtifact(input: $input) { artifact { id } } }
"""


def log_with_sdk(stand_in: StandIn, plain: Path, home: Path, names: Iterable[str]) -> str:
    """Log folders of `plain` as artifacts, none too; return the entity that they belong to.

    home: a folder for what the SDK leaves, removed again.
    """
    command = [sys.executable, "-c", LOG, PROJECT, READERS_RUN, str(plain), *names]
    done = run(*command, env=stand_in.env(home), timeout_s=LOG_TIMEOUT_S)
    assert done.returncode == 0, f"the artifacts can't be logged: {done.stderr[-2000:]}"
    shutil.rmtree(home)
    return done.stdout.split()[-1]


def log_past_sdk(stand_in: StandIn, entity: str, folder: Path) -> None:
    """Log a folder under its own name, its files shared with the server as hard links."""
    digests = {path: md5(path) for path in files_below(folder)}
    contents = {
        str(path.relative_to(folder)): {"digest": in_base64(digest), "size": path.stat().st_size}
        for path, digest in digests.items()
    }
    with requests.Session() as session:
        # A proxy of the environment is not for loopback.
        session.trust_env = False
        found = ask(session, stand_in, PROJECT_ID, {"entity": entity, "name": PROJECT})
        project_id = decode_id("Project", found["project"]["id"])
        created = mutate(
            session,
            stand_in,
            CREATE,
            entityName=entity,
            projectName=PROJECT,
            artifactTypeName="dataset",
            artifactCollectionName=folder.name,
            digest=artifact_digest(contents, ALGORITHM),
            digestAlgorithm=ALGORITHM,
            aliases=[],
        )
        artifact_id = created["artifact"]["id"]
        objects = stand_in.data_dir / "objects" / "wandb_artifacts" / str(project_id)
        objects /= str(decode_id("Artifact", artifact_id))
        objects.mkdir(parents=True)
        for path, digest in digests.items():
            target = objects / digest.hex()
            if not target.exists():
                target.hardlink_to(path)
        upload_manifest(session, stand_in, entity, artifact_id, serialize_manifest(contents, "V2"))
        mutate(session, stand_in, COMMIT, artifactID=artifact_id)


def upload_manifest(
    session: requests.Session, stand_in: StandIn, entity: str, artifact_id: str, file: bytes
) -> None:
    """Give an artifact its manifest."""
    added = mutate(
        session,
        stand_in,
        ADD_MANIFEST,
        entityName=entity,
        projectName=PROJECT,
        artifactID=artifact_id,
        name="wandb_manifest.json",
        digest=in_base64(hashlib.md5(file, usedforsecurity=False).digest()),
    )
    target = added["artifactManifest"]["file"]
    headers = dict(header.split(":", 1) for header in target["uploadHeaders"])
    session.put(
        target["uploadUrl"], data=file, headers=headers, timeout=CALL_TIMEOUT_S
    ).raise_for_status()


def mutate(session: requests.Session, stand_in: StandIn, query: str, **fields: Any) -> Any:
    """Do a mutation; return what it answers."""
    return ask(session, stand_in, query, {"input": fields})["done"]


def ask(
    session: requests.Session, stand_in: StandIn, query: str, variables: Mapping[str, Any]
) -> Any:
    """Ask the server's API as its administrator."""
    response = session.post(
        f"{stand_in.base_url}/graphql",
        auth=("api", stand_in.api_key),
        json={"query": query, "variables": dict(variables)},
        timeout=CALL_TIMEOUT_S,
    )
    answer = response.json()
    assert not answer.get("errors"), answer["errors"][:1]
    return answer["data"]


def share_bytes(objects: Path, plain: Path, names: Iterable[str]) -> None:
    """Make the plain files hard links to the server's objects: one copy on disk and in memory."""
    stored = {md5(path): path for path in files_below(objects)}
    for name in names:
        for path in list(files_below(plain / name)):
            found = stored[md5(path)]
            path.unlink()
            path.hardlink_to(found)


def md5(path: Path) -> bytes:
    """Return a file's MD5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()


def in_base64(digest: bytes) -> str:
    """Return a digest as W&B writes it."""
    return base64.b64encode(digest).decode()

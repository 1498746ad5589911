"""The mutations that log an artifact: create, manifests, files, commit."""

from __future__ import annotations

from typing import Any

from ariadne import MutationType

from wbfs.devserver.data.accounts import Access
from wbfs.devserver.data.artifacts import Artifact, Draft
from wbfs.devserver.data.ids import decode_id, encode_id
from wbfs.devserver.data.paging import whole
from wbfs.devserver.errors import InvalidRequest
from wbfs.devserver.objects.uploads import FileSpec, ManifestRecord
from wbfs.devserver.resolvers.context import Info
from wbfs.devserver.resolvers.files import FileNode, manifest_node

STORAGE_REGIONS = ("default", "minio-local")
"""Where clients may ask for files to be kept; it is all the same here."""

mutation = MutationType()

TYPES = [mutation]


@mutation.field("createArtifact")
def create_artifact(_: None, info: Info, input: dict[str, Any]) -> dict[str, Artifact]:
    ctx = info.context
    services = ctx.services
    names = input.get("artifact_collection_names") or [input.get("artifact_collection_name")]
    if len(names) != 1 or names[0] is None:
        raise InvalidRequest("an artifact is created in exactly one collection")
    region = input.get("storage_region") or STORAGE_REGIONS[0]
    if region not in STORAGE_REGIONS:
        raise InvalidRequest(f"invalid storageRegion: {region}")
    draft = Draft(
        type=input["artifact_type_name"],
        collection=names[0],
        digest=input["digest"],
        digest_algorithm=input["digest_algorithm"],
        client_id=input.get("client_id"),
        distributed_id=input.get("distributed_id"),
        description=input.get("description"),
        metadata=input.get("metadata"),
        ttl_duration_seconds=input.get("ttl_duration_seconds"),
        history_step=input.get("history_step"),
        aliases=tuple(alias["alias"] for alias in input.get("aliases") or []),
        tags=tuple(tag["tag_name"] for tag in input.get("tags") or []),
        deduplicate=bool(input.get("enable_digest_deduplication")),
    )
    with services.database.transaction():
        project = services.projects.writable(ctx.user, input["entity_name"], input["project_name"])
        run = None
        if input.get("run_name"):
            run = services.runs.named(project, input["run_name"])
        artifact = services.artifacts.create(project, draft, run, ctx.user)
    return {"artifact": artifact}


@mutation.field("createArtifactManifest")
def create_artifact_manifest(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    with ctx.services.database.transaction():
        record = ctx.services.uploads.add_manifest(
            ctx.artifact(input["artifact_id"], Access.WRITE),
            input.get("type") or "FULL",
            input["digest"],
            decode_id("Artifact", input.get("base_artifact_id") or ""),
        )
    return _manifest(record)


@mutation.field("updateArtifactManifest")
def update_artifact_manifest(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    services = ctx.services
    with services.database.transaction():
        manifest_id = decode_id("ArtifactManifest", input["artifact_manifest_id"])
        record = services.uploads.manifest(manifest_id or 0)
        artifact = services.artifacts.by_id(record.artifact_id)
        ctx.require(services.artifacts.project(artifact), Access.WRITE)
        record = services.uploads.update_manifest(
            record,
            input.get("digest") or "",
            decode_id("Artifact", input.get("base_artifact_id") or ""),
        )
    return _manifest(record)


def _manifest(record: ManifestRecord) -> dict[str, Any]:
    return {
        "artifact_manifest": {
            "id": encode_id("ArtifactManifest", record.id),
            "digest": record.digest,
            "file": manifest_node(record),
        }
    }


@mutation.field("createArtifactFiles")
def create_artifact_files(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    files = []
    with ctx.services.database.transaction():
        for spec in input["artifact_files"]:
            artifact = ctx.artifact(spec["artifact_id"], Access.WRITE)
            digest = spec.get("digest") or spec["md5"]
            upload = ctx.services.uploads.add_file(
                artifact,
                FileSpec(
                    name=spec["name"],
                    md5=spec["md5"],
                    digest=digest,
                    parts=tuple(
                        part["part_number"] for part in spec.get("upload_parts_input") or []
                    ),
                ),
            )
            files.append(
                FileNode(
                    id=encode_id("File", artifact.id) + ":" + spec["name"],
                    name=spec["name"],
                    size_bytes=0,
                    digest=digest,
                    md5=spec["md5"],
                    updated_at=None,
                    ref=None,
                    object_key=upload.object_key,
                    readable=True,
                    upload=upload,
                    artifact=upload.birth_artifact,
                    mimetype=spec.get("mimetype"),
                )
            )
    return {"files": whole(files)}


@mutation.field("completeMultipartUploadArtifact")
def complete_multipart(_: None, info: Info, input: dict[str, Any]) -> dict[str, str]:
    ctx = info.context
    ctx.artifact(input["artifact_id"], Access.WRITE)
    digest = ctx.services.uploads.complete_multipart(
        input["storage_path"],
        input["upload_id"],
        {part["part_number"]: part["hex_md5"] for part in input["completed_parts"]},
    )
    return {"digest": digest}


@mutation.field("commitArtifact")
def commit_artifact(_: None, info: Info, input: dict[str, Any]) -> dict[str, Artifact]:
    ctx = info.context
    with ctx.services.database.transaction():
        artifact = ctx.artifact(input["artifact_id"], Access.WRITE)
        return {"artifact": ctx.services.uploads.commit(artifact)}

"""Resolvers of artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ariadne import ObjectType, QueryType, UnionType

from wbfs.devserver.data.accounts import Access, User
from wbfs.devserver.data.artifacts import INHERITED_TTL, Artifact
from wbfs.devserver.data.ids import encode_id
from wbfs.devserver.data.memberships import Alias, Collection, Membership, Tag
from wbfs.devserver.data.paging import Connection, PageRequest, whole
from wbfs.devserver.data.projects import ArtifactType
from wbfs.devserver.data.runs import Run
from wbfs.devserver.resolvers.context import Info, page
from wbfs.devserver.resolvers.files import FileNode, entry_nodes

query = QueryType()
artifact_type = ObjectType("Artifact")
creator_type = UnionType("ArtifactCreator")

TYPES = [query, artifact_type, creator_type]


@query.field("artifact")
def artifact(_: None, info: Info, id: str) -> Artifact | None:
    ctx = info.context
    found = ctx.services.artifacts.by_opaque_id(id)
    if found is None or ctx.services.artifacts.access(ctx.viewer, found) < Access.LIST:
        return None
    return found


@query.field("clientIDMapping")
def client_id_mapping(_: None, info: Info, client_id: str) -> dict[str, str] | None:
    ctx = info.context
    found = ctx.services.artifacts.by_client_id(client_id)
    if found is None or ctx.services.artifacts.access(ctx.viewer, found) < Access.LIST:
        return None
    return {"server_id": encode_id("Artifact", found.id)}


@artifact_type.field("id")
def artifact_id(artifact: Artifact, info: Info) -> str:
    return encode_id("Artifact", artifact.id)


@artifact_type.field("artifactSequence")
def artifact_sequence(artifact: Artifact, info: Info) -> Collection:
    return info.context.services.artifacts.sequence(artifact)


@artifact_type.field("artifactType")
def artifact_artifact_type(artifact: Artifact, info: Info) -> ArtifactType:
    services = info.context.services
    return services.projects.type_by_id(services.artifacts.sequence(artifact).type_id)


@artifact_type.field("ttlIsInherited")
def artifact_ttl_is_inherited(artifact: Artifact, info: Info) -> bool:
    return artifact.ttl_duration_seconds == INHERITED_TTL


@artifact_type.field("tags")
def artifact_tags(artifact: Artifact, info: Info) -> list[Tag]:
    return info.context.services.memberships.tags("artifact", artifact.id)


@artifact_type.field("aliases")
def artifact_aliases(artifact: Artifact, info: Info) -> list[Alias]:
    """Every alias in a collection that the viewer may see."""
    ctx = info.context
    found = ctx.services.memberships.artifact_aliases(artifact.id)
    return [alias for alias in found if ctx.sees_collection(alias.collection_id)]


@artifact_type.field("createdBy")
def artifact_created_by(artifact: Artifact, info: Info) -> Run | User | None:
    services = info.context.services
    return services.runs.by_id(artifact.run_id) or services.accounts.user(artifact.user_id or 0)


@creator_type.type_resolver
def creator_kind(creator: Run | User, *_: Any) -> str:
    return type(creator).__name__


@artifact_type.field("usedBy")
def artifact_used_by(
    artifact: Artifact, info: Info, first: int | None = None, after: str | None = None
) -> Connection[Run]:
    return info.context.services.artifacts.used_by(artifact, page(first, after))


@artifact_type.field("artifactMemberships")
def artifact_memberships(artifact: Artifact, info: Info) -> Connection[Membership]:
    """Every place of an artifact that the viewer may see."""
    ctx = info.context
    found = ctx.services.memberships.of_artifact(artifact.id)
    return whole([one for one in found if ctx.sees_collection(one.collection_id)])


@artifact_type.field("currentManifest")
def artifact_current_manifest(artifact: Artifact, info: Info) -> dict[str, Any] | None:
    if artifact.manifest_key is None:
        return None
    return {
        "id": encode_id("CurrentManifest", artifact.id),
        "digest": artifact.digest,
        "file": FileNode(
            id=encode_id("CurrentManifest", artifact.id),
            name="wandb_manifest.json",
            size_bytes=info.context.services.origin.size(artifact.manifest_key),
            digest=None,
            md5=None,
            updated_at=artifact.updated_at,
            ref=None,
            object_key=artifact.manifest_key,
            readable=True,
        ),
    }


@artifact_type.field("files")
def artifact_files(
    artifact: Artifact,
    info: Info,
    names: Sequence[str] | None = None,
    first: int | None = None,
    after: str | None = None,
) -> Connection[FileNode]:
    return _files(artifact, info, names, page(first, after))


@artifact_type.field("filesByManifestEntries")
def artifact_files_by_manifest_entries(
    artifact: Artifact,
    info: Info,
    storage_layout: str,
    manifest_version: str,
    entries: Sequence[dict[str, Any]] | None = None,
    storage_region: str | None = None,
    first: int | None = None,
    after: str | None = None,
) -> Connection[FileNode]:
    names = [entry["name"] for entry in entries or []]
    return _files(artifact, info, names, page(first, after))


def _files(
    artifact: Artifact, info: Info, names: Sequence[str] | None, wanted: PageRequest
) -> Connection[FileNode]:
    ctx = info.context
    artifacts = ctx.services.artifacts
    access = artifacts.access(ctx.viewer, artifact)
    return artifacts.entries(artifact, wanted, names).map(
        entry_nodes(ctx, artifact, artifacts.sequence(artifact), access)
    )

"""Resolvers of collections, memberships, aliases and tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ariadne import InterfaceType, ObjectType, QueryType

from wbfs.devserver.data.artifacts import Artifact
from wbfs.devserver.data.ids import decode_id, encode_id
from wbfs.devserver.data.memberships import Alias, Collection, Membership, Tag
from wbfs.devserver.data.paging import Connection, PageInfo, whole
from wbfs.devserver.data.projects import ArtifactType, Project
from wbfs.devserver.resolvers.context import Info, page
from wbfs.devserver.resolvers.files import FileNode, entry_nodes

query = QueryType()
collection_type = InterfaceType("ArtifactCollection")
sequence_type = ObjectType("ArtifactSequence")
membership_type = ObjectType("ArtifactCollectionMembership")
alias_type = ObjectType("ArtifactAlias")
tag_type = ObjectType("Tag")

TYPES = [query, collection_type, sequence_type, membership_type, alias_type, tag_type]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEdge:
    """A version in a listing, under the name that it has in the listed collection."""

    cursor: str
    version: str
    node: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionConnection:
    """A page of versions."""

    edges: list[VersionEdge]
    page_info: PageInfo
    memberships: Connection[Membership]

    @property
    def total_count(self) -> int:
        """The number of versions in all pages."""
        return self.memberships.total_count


@query.field("artifactCollection")
def artifact_collection(_: None, info: Info, id: str) -> Collection | None:
    services = info.context.services
    collection = services.memberships.collection_by_id(decode_id("ArtifactCollection", id) or 0)
    if collection is None or collection_project(collection, info) is None:
        return None
    return collection


@collection_type.type_resolver
def collection_kind(collection: Collection, *_: Any) -> str:
    return "ArtifactSequence" if collection.kind == "SEQUENCE" else "ArtifactPortfolio"


@collection_type.field("id")
def collection_id(collection: Collection, info: Info) -> str:
    return encode_id("ArtifactCollection", collection.id)


@collection_type.field("state")
def collection_state(collection: Collection, info: Info) -> str:
    found = info.context.services.memberships.collection_by_id(collection.id)
    return "DELETED" if found is None else "READY"


@collection_type.field("project")
def collection_project(collection: Collection, info: Info) -> Project | None:
    """None if the viewer may not see it: a link shows a version, not its source."""
    ctx = info.context
    return ctx.visible(ctx.services.projects.by_id(collection.project_id))


@collection_type.field("defaultArtifactType")
def collection_artifact_type(collection: Collection, info: Info) -> ArtifactType:
    return info.context.services.projects.type_by_id(collection.type_id)


@collection_type.field("tags")
def collection_tags(collection: Collection, info: Info) -> Connection[Tag]:
    return whole(info.context.services.memberships.tags("collection", collection.id))


@collection_type.field("aliases")
def collection_aliases(
    collection: Collection, info: Info, first: int | None = None, after: str | None = None
) -> Connection[Alias]:
    memberships = info.context.services.memberships
    return memberships.collection_aliases(collection, page(first, after))


@collection_type.field("artifacts")
def collection_artifacts(
    collection: Collection,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> VersionConnection:
    artifacts = info.context.services.artifacts
    found = collection_memberships(collection, info, first, after, filters, order)
    return VersionConnection(
        edges=[
            VersionEdge(
                cursor=edge.cursor,
                version=f"v{edge.node.version_index}",
                node=artifacts.by_id(edge.node.artifact_id),
            )
            for edge in found.edges
        ],
        page_info=found.page_info,
        memberships=found,
    )


@collection_type.field("artifactMembership")
def collection_membership(collection: Collection, info: Info, alias_name: str) -> Membership | None:
    return info.context.services.memberships.resolve(collection, alias_name)


@collection_type.field("artifactMemberships")
def collection_memberships(
    collection: Collection,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> Connection[Membership]:
    memberships = info.context.services.memberships
    return memberships.memberships(collection, page(first, after), filters=filters, order=order)


@sequence_type.field("latestArtifact")
def latest_artifact(collection: Collection, info: Info) -> Artifact | None:
    services = info.context.services
    membership = services.memberships.latest(collection)
    return None if membership is None else services.artifacts.by_id(membership.artifact_id)


@membership_type.field("id")
def membership_id(membership: Membership, info: Info) -> str:
    return encode_id("ArtifactCollectionMembership", membership.id)


@membership_type.field("aliases")
def membership_aliases(membership: Membership, info: Info) -> list[Alias]:
    return info.context.services.memberships.aliases(membership)


@membership_type.field("artifactCollection")
def membership_collection(membership: Membership, info: Info) -> Collection | None:
    return info.context.services.memberships.collection_by_id(membership.collection_id)


@membership_type.field("artifact")
def membership_artifact(membership: Membership, info: Info) -> Artifact:
    return info.context.services.artifacts.by_id(membership.artifact_id)


@membership_type.field("files")
def membership_files(
    membership: Membership,
    info: Info,
    names: Sequence[str] | None = None,
    first: int | None = None,
    after: str | None = None,
) -> Connection[FileNode]:
    ctx = info.context
    artifact = ctx.services.artifacts.by_id(membership.artifact_id)
    collection = ctx.services.memberships.collection_by_id(membership.collection_id)
    assert collection is not None
    # Who may read it elsewhere may not therefore read it here.
    access = ctx.services.projects.access(
        ctx.viewer, ctx.services.projects.by_id(collection.project_id)
    )
    return ctx.services.artifacts.entries(artifact, page(first, after), names).map(
        entry_nodes(ctx, artifact, collection, access)
    )


@alias_type.field("id")
def alias_id(alias: Alias, info: Info) -> str:
    return encode_id("ArtifactAlias", alias.id)


@alias_type.field("artifactCollection")
def alias_collection(alias: Alias, info: Info) -> Collection | None:
    return info.context.services.memberships.collection_by_id(alias.collection_id)


@tag_type.field("id")
def tag_id(tag: Tag, info: Info) -> str:
    return encode_id("Tag", tag.id)

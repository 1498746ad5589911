"""The mutations of artifacts and collections that are there already."""

from __future__ import annotations

from typing import Any

from ariadne import MutationType

from wbfs.devserver.data.accounts import Access
from wbfs.devserver.data.artifacts import Artifact
from wbfs.devserver.data.memberships import Collection, Membership
from wbfs.devserver.errors import NotFound, PermissionDenied
from wbfs.devserver.resolvers.context import Context, Info

mutation = MutationType()

TYPES = [mutation]


@mutation.field("useArtifact")
def use_artifact(_: None, info: Info, input: dict[str, Any]) -> dict[str, Artifact]:
    ctx = info.context
    services = ctx.services
    with services.database.transaction():
        run = ctx.run(input["entity_name"], input["project_name"], input["run_name"], Access.WRITE)
        artifact = services.artifacts.by_opaque_id(input["artifact_id"])
        access = (
            Access.NONE if artifact is None else services.artifacts.access(ctx.viewer, artifact)
        )
        if artifact is None or access < Access.LIST:
            raise NotFound("artifact not found")
        if access < Access.READ:
            raise PermissionDenied("permission denied: cannot use the artifact")
        services.artifacts.use(artifact, run)
    return {"artifact": artifact}


@mutation.field("updateArtifact")
def update_artifact(_: None, info: Info, input: dict[str, Any]) -> dict[str, Artifact]:
    ctx = info.context
    services = ctx.services
    with services.database.transaction():
        artifact = ctx.artifact(input["artifact_id"], Access.WRITE)
        services.memberships.tag("artifact", artifact.id, _tags(input.get("tags_to_add")))
        services.memberships.untag("artifact", artifact.id, _tags(input.get("tags_to_delete")))
        artifact = services.artifacts.update(
            artifact,
            description=input.get("description"),
            metadata=input.get("metadata"),
            ttl_duration_seconds=input.get("ttl_duration_seconds"),
        )
    return {"artifact": artifact}


@mutation.field("deleteArtifact")
def delete_artifact(_: None, info: Info, input: dict[str, Any]) -> dict[str, Artifact]:
    ctx = info.context
    with ctx.services.database.transaction():
        artifact = ctx.services.artifacts.delete(
            ctx.artifact(input["artifact_id"], Access.WRITE),
            delete_aliases=bool(input.get("delete_aliases")),
        )
    return {"artifact": artifact}


@mutation.field("linkArtifact")
def link_artifact(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    services = ctx.services
    with services.database.transaction():
        if input.get("client_id") is not None:
            artifact = services.artifacts.by_client_id(input["client_id"])
        else:
            artifact = services.artifacts.by_opaque_id(input.get("artifact_id") or "")
        if artifact is None or services.artifacts.access(ctx.viewer, artifact) < Access.READ:
            raise NotFound("artifact not found")
        if input.get("artifact_portfolio_id") is not None:
            portfolio = ctx.collection(input["artifact_portfolio_id"], Access.WRITE)
            name, project = portfolio.name, services.projects.by_id(portfolio.project_id)
        else:
            name = input.get("artifact_portfolio_name") or ""
            project = services.projects.writable(
                ctx.user,
                input.get("entity_name") or ctx.default_entity,
                input.get("project_name") or "uncategorized",
            )
        membership = services.artifacts.link(
            artifact, project, name, [alias["alias"] for alias in input.get("aliases") or []]
        )
    return {"version_index": membership.version_index, "artifact_membership": membership}


@mutation.field("unlinkArtifact")
def unlink_artifact(_: None, info: Info, input: dict[str, Any]) -> dict[str, bool]:
    ctx = info.context
    services = ctx.services
    with services.database.transaction():
        portfolio = ctx.collection(input["artifact_portfolio_id"], Access.WRITE)
        artifact = services.artifacts.by_opaque_id(input["artifact_id"])
        membership = _place(ctx, portfolio, artifact)
        if membership is None or portfolio.kind != "PORTFOLIO":
            raise NotFound("the artifact is not linked there")
        services.memberships.remove(membership)
    return {"success": True}


@mutation.field("addAliases")
def add_aliases(_: None, info: Info, input: dict[str, Any]) -> dict[str, bool]:
    ctx = info.context
    with ctx.services.database.transaction():
        for membership, alias in _alias_targets(ctx, input):
            ctx.services.memberships.set_aliases(membership, [alias])
    return {"success": True}


@mutation.field("deleteAliases")
def delete_aliases(_: None, info: Info, input: dict[str, Any]) -> dict[str, bool]:
    ctx = info.context
    with ctx.services.database.transaction():
        for membership, alias in _alias_targets(ctx, input):
            ctx.services.memberships.delete_alias(membership, alias)
    return {"success": True}


def _alias_targets(ctx: Context, input: dict[str, Any]) -> list[tuple[Membership, str]]:
    services = ctx.services
    artifact = services.artifacts.by_opaque_id(input["artifact_id"])
    targets = []
    for item in input["aliases"]:
        collection = _named_collection(ctx, item)
        membership = _place(ctx, collection, artifact)
        if membership is None:
            raise NotFound(f"artifact not found in {collection.name!r}")
        targets.append((membership, item["alias"]))
    return targets


def _place(ctx: Context, collection: Collection, artifact: Artifact | None) -> Membership | None:
    if artifact is None:
        return None
    return ctx.services.memberships.membership(collection.id, artifact.id)


def _named_collection(ctx: Context, input: dict[str, Any]) -> Collection:
    project = ctx.services.projects.visible(ctx.viewer, input["entity_name"], input["project_name"])
    if project is None:
        raise NotFound(f"project {input['project_name']!r} not found")
    name = input["artifact_collection_name"]
    collection = ctx.services.memberships.collection(project, name)
    if collection is None:
        raise NotFound(f"artifact collection {name!r} not found")
    ctx.require(project, Access.WRITE)
    return collection


@mutation.field("updateArtifactSequence")
@mutation.field("updateArtifactPortfolio")
def update_collection(_: None, info: Info, input: dict[str, Any]) -> dict[str, Collection]:
    ctx = info.context
    with ctx.services.database.transaction():
        collection = ctx.services.memberships.update_collection(
            ctx.collection(_collection_id(input), Access.WRITE),
            name=input.get("name"),
            description=input.get("description"),
        )
    return {"artifact_collection": collection}


@mutation.field("moveArtifactSequence")
def move_sequence(_: None, info: Info, input: dict[str, Any]) -> dict[str, Collection]:
    ctx = info.context
    services = ctx.services
    with services.database.transaction():
        collection = ctx.collection(input["artifact_sequence_id"], Access.WRITE)
        project = services.projects.by_id(collection.project_id)
        collection = services.memberships.update_collection(
            collection,
            type=services.projects.ensure_type(project, input["destination_artifact_type_name"]),
        )
    return {"artifact_collection": collection}


@mutation.field("deleteArtifactSequence")
@mutation.field("deleteArtifactPortfolio")
def delete_collection(_: None, info: Info, input: dict[str, Any]) -> dict[str, Collection]:
    ctx = info.context
    with ctx.services.database.transaction():
        collection = ctx.collection(_collection_id(input), Access.WRITE)
        ctx.services.memberships.delete_collection(collection)
    return {"artifact_collection": collection}


def _collection_id(input: dict[str, Any]) -> str:
    found = input.get("artifact_sequence_id") or input.get("artifact_portfolio_id")
    assert isinstance(found, str)
    return found


@mutation.field("createArtifactCollectionTagAssignments")
def tag_collection(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    memberships = ctx.services.memberships
    with ctx.services.database.transaction():
        collection = _named_collection(ctx, input)
        memberships.tag("collection", collection.id, _tags(input["tags"]))
        return {"tags": memberships.tags("collection", collection.id)}


@mutation.field("deleteArtifactCollectionTagAssignments")
def untag_collection(_: None, info: Info, input: dict[str, Any]) -> dict[str, bool]:
    ctx = info.context
    with ctx.services.database.transaction():
        collection = _named_collection(ctx, input)
        ctx.services.memberships.untag("collection", collection.id, _tags(input["tags"]))
    return {"success": True}


def _tags(tags: list[dict[str, Any]] | None) -> list[str]:
    return [tag["tag_name"] for tag in tags or []]

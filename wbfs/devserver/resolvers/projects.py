"""Resolvers of projects and artifact types, and the mutations of projects."""

from __future__ import annotations

from typing import Any

from ariadne import MutationType, ObjectType, QueryType

from wbfs.devserver.data.accounts import Access, Entity, User
from wbfs.devserver.data.artifacts import Artifact
from wbfs.devserver.data.filters import Condition
from wbfs.devserver.data.ids import decode_id, encode_id
from wbfs.devserver.data.memberships import Collection, Membership
from wbfs.devserver.data.paging import Connection
from wbfs.devserver.data.projects import REGISTRY_PREFIX, ArtifactType, Project
from wbfs.devserver.data.runs import Run
from wbfs.devserver.errors import NotFound, PermissionDenied
from wbfs.devserver.resolvers.context import Info, page

query = QueryType()
mutation = MutationType()
project_type = ObjectType("Project")
artifact_type_type = ObjectType("ArtifactType")

TYPES = [query, mutation, project_type, artifact_type_type]


@query.field("project")
@query.field("model")
def project(
    _: None, info: Info, name: str | None = None, entity_name: str | None = None
) -> Project | None:
    ctx = info.context
    return ctx.services.projects.visible(ctx.viewer, entity_name or ctx.default_entity, name or "")


@query.field("models")
def models(
    _: None,
    info: Info,
    entity_name: str | None = None,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> Connection[Project] | None:
    ctx = info.context
    entity = ctx.services.accounts.entity(entity_name or ctx.default_entity)
    if entity is None:
        return None
    return ctx.services.projects.of_entity(ctx.viewer, entity, page(first, after), filters, order)


@project_type.field("id")
def project_id(project: Project, info: Info) -> str:
    return encode_id("Project", project.id)


@project_type.field("internalId")
def project_internal_id(project: Project, info: Info) -> str:
    return encode_id("ProjectInternalId", project.id)


@project_type.field("entity")
def project_entity(project: Project, info: Info) -> Entity:
    return info.context.services.accounts.entity_by_id(project.entity_id)


@project_type.field("entityName")
def project_entity_name(project: Project, info: Info) -> str:
    return info.context.services.accounts.entity_by_id(project.entity_id).name


@project_type.field("user")
def project_user(project: Project, info: Info) -> User | None:
    return info.context.services.accounts.user(project_entity(project, info).user_id or 0)


@project_type.field("readOnly")
def project_read_only(project: Project, info: Info) -> bool:
    ctx = info.context
    return ctx.services.projects.access(ctx.viewer, project) < Access.WRITE


@project_type.field("isBenchmark")
def project_is_benchmark(project: Project, info: Info) -> bool:
    return False


@project_type.field("allowAllArtifactTypesInRegistry")
def project_any_artifact_type(project: Project, info: Info) -> bool:
    return bool(project.any_artifact_type)


@project_type.field("run")
@project_type.field("bucket")
def project_run(project: Project, info: Info, name: str, missing_ok: bool = True) -> Run | None:
    return info.context.services.runs.named(project, name)


@project_type.field("runs")
def project_runs(
    project: Project,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> Connection[Run]:
    return info.context.services.runs.of_project(project, page(first, after), filters, order)


@project_type.field("runCount")
def project_run_count(project: Project, info: Info, filters: str | None = None) -> int:
    runs = info.context.services.runs.of_project(project, page(0, None), filters, None)
    return runs.total_count


@project_type.field("artifact")
def project_artifact(project: Project, info: Info, name: str) -> Artifact | None:
    services = info.context.services
    membership = services.memberships.resolve_name(project, name)
    return None if membership is None else services.artifacts.by_id(membership.artifact_id)


@project_type.field("artifactType")
def project_artifact_type(project: Project, info: Info, name: str) -> ArtifactType | None:
    return info.context.services.projects.type(project, name)


@project_type.field("artifactTypes")
def project_artifact_types(
    project: Project,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    include_all: bool = False,
) -> Connection[ArtifactType]:
    return info.context.services.projects.types(project, page(first, after))


@project_type.field("artifactCollection")
def project_collection(project: Project, info: Info, name: str) -> Collection | None:
    return info.context.services.memberships.collection(project, name)


@project_type.field("artifactCollections")
def project_collections(
    project: Project,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
    collection_types: list[str] | None = None,
) -> Connection[Collection]:
    return info.context.services.memberships.collections(
        Condition(sql="= ?", parameters=(project.id,)),
        page(first, after),
        kinds=collection_types or ("SEQUENCE", "PORTFOLIO"),
        filters=filters,
        order=order,
    )


@project_type.field("artifactCollectionMembership")
def project_membership(project: Project, info: Info, name: str) -> Membership | None:
    return info.context.services.memberships.resolve_name(project, name)


@artifact_type_type.field("id")
def artifact_type_id(artifact_type: ArtifactType, info: Info) -> str:
    return encode_id("ArtifactType", artifact_type.id)


@artifact_type_type.field("project")
def artifact_type_project(artifact_type: ArtifactType, info: Info) -> Project:
    return info.context.services.projects.by_id(artifact_type.project_id)


@artifact_type_type.field("artifactCollection")
def artifact_type_collection(
    artifact_type: ArtifactType, info: Info, name: str
) -> Collection | None:
    services = info.context.services
    collection = services.memberships.collection(
        services.projects.by_id(artifact_type.project_id), name
    )
    if collection is None or collection.type_id != artifact_type.id:
        return None
    return collection


@artifact_type_type.field("artifactCollections")
def artifact_type_collections(
    artifact_type: ArtifactType,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
    collection_types: list[str] | None = None,
) -> Connection[Collection]:
    return info.context.services.memberships.collections(
        Condition(sql="= ?", parameters=(artifact_type.project_id,)),
        page(first, after),
        type=artifact_type,
        kinds=collection_types or ("SEQUENCE", "PORTFOLIO"),
        filters=filters,
        order=order,
    )


@mutation.field("upsertModel")
def upsert_model(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    services = ctx.services
    entity_name, name = input.get("entity_name") or ctx.default_entity, input.get("name") or ""
    with services.database.transaction():
        known = services.projects.visible(ctx.viewer, entity_name, name)
        if known is None and name.startswith(REGISTRY_PREFIX):
            entity = services.accounts.entity(entity_name)
            if entity is None or services.accounts.access(ctx.user, entity) < Access.WRITE:
                raise PermissionDenied(f"permission denied: cannot write to {entity_name}")
            project = services.projects.create(entity, name)
            own = services.accounts.own_entity(ctx.user)
            services.projects.add_member(project, own, "admin")
        else:
            project = services.projects.writable(ctx.user, entity_name, name)
        project = services.projects.update(
            project,
            description=input.get("description"),
            access=input.get("access"),
            any_artifact_type=input.get("allow_all_artifact_types_in_registry"),
        )
        for artifact_type in input.get("artifact_types") or []:
            services.projects.ensure_type(project, artifact_type["name"])
    return {"project": project, "model": project, "inserted": known is None}


@mutation.field("renameProject")
def rename_project(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    projects = ctx.services.projects
    with ctx.services.database.transaction():
        project = projects.visible(ctx.viewer, input["entity_name"], input["old_project_name"])
        if project is None:
            raise NotFound("project not found")
        ctx.require(project, Access.WRITE)
        project = projects.update(project, name=input["new_project_name"])
    return {"project": project, "model": project, "inserted": False}


@mutation.field("deleteModel")
def delete_model(_: None, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    ctx = info.context
    project_id = decode_id("Project", input["id"])
    if project_id is None:
        raise NotFound("project not found")
    with ctx.services.database.transaction():
        project = ctx.services.projects.by_id(project_id)
        ctx.require(project, Access.WRITE)
        ctx.services.projects.delete(project)
    return {"success": True}

"""Resolvers of the server, users, entities and organizations."""

from __future__ import annotations

from typing import Any

from ariadne import ObjectType, QueryType

from wbfs.devserver.data.accounts import Access, Entity, Member, Organization, User
from wbfs.devserver.data.filters import Condition, parse_filters
from wbfs.devserver.data.ids import encode_id
from wbfs.devserver.data.memberships import Collection, Membership
from wbfs.devserver.data.paging import Connection, whole
from wbfs.devserver.data.projects import PROJECT_FIELDS, Project
from wbfs.devserver.resolvers.context import Info, page

query = QueryType()
user_type = ObjectType("User")
entity_type = ObjectType("Entity")
member_type = ObjectType("Member")
organization_type = ObjectType("Organization")

TYPES = [query, user_type, entity_type, member_type, organization_type]


@query.field("serverInfo")
def server_info(_: None, info: Info) -> dict[str, Any]:
    features = info.context.services.options.features
    return {"features": [{"name": name, "is_enabled": on} for name, on in sorted(features.items())]}


@query.field("viewer")
def viewer(_: None, info: Info) -> User | None:
    return info.context.viewer


@query.field("users")
def users(_: None, info: Info, query: str = "") -> Connection[User]:
    return whole(info.context.services.accounts.users(query))


@query.field("entity")
def entity(_: None, info: Info, name: str | None = None) -> Entity | None:
    """An entity is known to who can see something in it; its projects are another matter."""
    ctx = info.context
    found = ctx.services.accounts.entity(name or ctx.default_entity)
    if found is None or ctx.viewer is None:
        return None
    if ctx.services.accounts.access(ctx.viewer, found) >= Access.LIST:
        return found
    known = ctx.services.accounts.organizations(ctx.viewer)
    is_of_them = found.kind == "ORGANIZATION" and found.organization_id in [one.id for one in known]
    return found if is_of_them else None


@query.field("organization")
def organization(_: None, info: Info, name: str) -> Organization | None:
    ctx = info.context
    if ctx.viewer is None:
        return None
    known = ctx.services.accounts.organizations(ctx.viewer)
    return next((one for one in known if one.name == name), None)


@user_type.field("id")
def user_id(user: User, info: Info) -> str:
    return encode_id("User", user.id)


@user_type.field("username")
def user_name(user: User, info: Info) -> str:
    return user.name


@user_type.field("entity")
def user_entity(user: User, info: Info) -> str:
    return info.context.services.accounts.default_entity(user).name


@user_type.field("admin")
def user_admin(user: User, info: Info) -> bool:
    return bool(user.admin)


@user_type.field("flags")
def user_flags(user: User, info: Info) -> str:
    return "{}"


@user_type.field("deletedAt")
def user_deleted_at(user: User, info: Info) -> None:
    return None


@user_type.field("apiKeys")
def user_api_keys(user: User, info: Info) -> Connection[dict[str, str]]:
    ctx = info.context
    own = ctx.viewer is not None and ctx.viewer.id == user.id
    keys = ctx.services.accounts.api_keys(user) if own else []
    return whole([{"id": encode_id("ApiKey", key.id), "name": key.prefix} for key in keys])


@user_type.field("teams")
def user_teams(user: User, info: Info) -> Connection[Entity]:
    return whole(info.context.services.accounts.teams(user))


@user_type.field("organizations")
def user_organizations(user: User, info: Info) -> list[Organization]:
    ctx = info.context
    own = ctx.viewer is not None and ctx.viewer.id == user.id
    return ctx.services.accounts.organizations(user) if own else []


@entity_type.field("id")
def entity_id(entity: Entity, info: Info) -> str:
    return encode_id("Entity", entity.id)


@entity_type.field("isTeam")
def entity_is_team(entity: Entity, info: Info) -> bool:
    return entity.kind == "TEAM"


@entity_type.field("entityType")
def entity_kind(entity: Entity, info: Info) -> str:
    return entity.kind.lower()


@entity_type.field("readOnly")
def entity_read_only(entity: Entity, info: Info) -> bool:
    ctx = info.context
    return ctx.services.accounts.access(ctx.viewer, entity) < Access.WRITE


@entity_type.field("readOnlyAdmin")
@entity_type.field("privateOnly")
@entity_type.field("available")
def entity_no(entity: Entity, info: Info) -> bool:
    """What is of no entity here: limits of a plan, and a name that is free."""
    return False


@entity_type.field("codeSavingEnabled")
@entity_type.field("isPaid")
def entity_yes(entity: Entity, info: Info) -> bool:
    return True


@entity_type.field("defaultAccess")
def entity_default_access(entity: Entity, info: Info) -> str:
    return "PRIVATE"


@entity_type.field("storageBytes")
def entity_storage_bytes(entity: Entity, info: Info) -> int:
    return info.context.services.artifacts.size_of_entity(entity.id)


@entity_type.field("xxhashDigestsEnabled")
def entity_xxhash(entity: Entity, info: Info) -> bool:
    return info.context.services.options.xxhash_digests_enabled


@entity_type.field("members")
def entity_members(entity: Entity, info: Info) -> list[Member]:
    return info.context.services.accounts.members(entity)


@entity_type.field("organization")
def entity_organization(entity: Entity, info: Info) -> Organization | None:
    return info.context.services.accounts.organization_by_id(entity.organization_id)


@entity_type.field("user")
def entity_user(entity: Entity, info: Info) -> User | None:
    return info.context.services.accounts.user(entity.user_id or 0)


@entity_type.field("project")
def entity_project(entity: Entity, info: Info, name: str | None = None) -> Project | None:
    ctx = info.context
    return ctx.services.projects.visible(ctx.viewer, entity.name, name or "")


@entity_type.field("projects")
def entity_projects(
    entity: Entity,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> Connection[Project]:
    ctx = info.context
    return ctx.services.projects.of_entity(ctx.viewer, entity, page(first, after), filters, order)


@entity_type.field("artifactCollections")
def entity_collections(
    entity: Entity,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    project_filters: str | None = None,
    filters: str | None = None,
    collection_types: list[str] | None = None,
    order: str | None = None,
) -> Connection[Collection]:
    return info.context.services.memberships.collections(
        _projects(entity, info, project_filters),
        page(first, after),
        kinds=collection_types or ("SEQUENCE", "PORTFOLIO"),
        filters=filters,
        order=order,
    )


@entity_type.field("artifactMemberships")
def entity_memberships(
    entity: Entity,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    project_filters: str | None = None,
    collection_filters: str | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> Connection[Membership]:
    return info.context.services.memberships.memberships_in(
        _projects(entity, info, project_filters),
        page(first, after),
        collection_filters=collection_filters,
        filters=filters,
        order=order,
    )


def _projects(entity: Entity, info: Info, filters: str | None) -> Condition:
    """Return the condition of the entity's projects that the viewer may see."""
    ctx = info.context
    visible = ctx.services.projects.visibility(ctx.viewer, entity)
    wanted = parse_filters(filters, PROJECT_FIELDS)
    return Condition(
        sql=f"IN (SELECT id FROM project WHERE entity_id = ? AND {visible.sql} AND {wanted.sql})",
        parameters=(entity.id, *visible.parameters, *wanted.parameters),
    )


@member_type.field("id")
def member_id(member: Member, info: Info) -> str:
    return encode_id("User", member.user_id)


@member_type.field("admin")
def member_admin(member: Member, info: Info) -> bool:
    return member.role == "admin"


@member_type.field("username")
@member_type.field("name")
def member_name(member: Member, info: Info) -> str | None:
    user = info.context.services.accounts.user(member.user_id)
    return user.name if user else None


@member_type.field("email")
def member_email(member: Member, info: Info) -> str | None:
    user = info.context.services.accounts.user(member.user_id)
    return user.email if user else None


@organization_type.field("id")
def organization_id(organization: Organization, info: Info) -> str:
    return encode_id("Organization", organization.id)


@organization_type.field("orgEntity")
def organization_entity(organization: Organization, info: Info) -> Entity:
    return info.context.services.accounts.organization_entity(organization)


@organization_type.field("featureFlags")
def organization_flags(organization: Organization, info: Info, ramp_id_type: str) -> list[Any]:
    return []

"""Resolvers of who has a role in a project or a registry, and the mutations of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ariadne import MutationType, ObjectType

from wbfs.devserver.data.accounts import Access, Entity, User
from wbfs.devserver.data.ids import decode_id, encode_id
from wbfs.devserver.data.projects import Project, ProjectMember
from wbfs.devserver.errors import NotFound
from wbfs.devserver.resolvers.context import Context, Info

mutation = MutationType()
project_type = ObjectType("Project")
member_type = ObjectType("ProjectMember")
team_type = ObjectType("ProjectTeamMember")

TYPES = [mutation, project_type, member_type, team_type]


@project_type.field("members")
def project_members(project: Project, info: Info) -> list[ProjectMember]:
    return info.context.services.projects.members(project, "USER")


@project_type.field("teamMembers")
def project_team_members(project: Project, info: Info) -> list[ProjectMember]:
    return info.context.services.projects.members(project, "TEAM")


@member_type.field("id")
def member_id(member: ProjectMember, info: Info) -> str:
    return encode_id("User", _user(member, info).id)


@member_type.field("name")
@member_type.field("username")
def member_name(member: ProjectMember, info: Info) -> str:
    return _user(member, info).name


@member_type.field("email")
def member_email(member: ProjectMember, info: Info) -> str:
    return _user(member, info).email


@member_type.field("role")
@team_type.field("role")
def member_role(member: ProjectMember, info: Info) -> dict[str, str]:
    return {"name": member.role}


@team_type.field("team")
def member_team(member: ProjectMember, info: Info) -> Entity:
    return info.context.services.accounts.entity_by_id(member.entity_id)


def _user(member: ProjectMember, info: Info) -> User:
    accounts = info.context.services.accounts
    user = accounts.user(accounts.entity_by_id(member.entity_id).user_id or 0)
    assert user is not None
    return user


@mutation.field("createProjectMembers")
def create_project_members(_: None, info: Info, input: dict[str, Any]) -> dict[str, bool]:
    return _change_members(info, input, info.context.services.projects.add_member)


@mutation.field("deleteProjectMembers")
def delete_project_members(_: None, info: Info, input: dict[str, Any]) -> dict[str, bool]:
    return _change_members(info, input, info.context.services.projects.remove_member)


def _change_members(
    info: Info, input: dict[str, Any], change: Callable[[Project, Entity], None]
) -> dict[str, bool]:
    ctx = info.context
    with ctx.services.database.transaction():
        project = _administered(ctx, input)
        for entity in _entities(ctx, input):
            change(project, entity)
    return {"success": True}


@mutation.field("updateProjectMember")
def update_project_member(_: None, info: Info, input: dict[str, Any]) -> dict[str, bool]:
    ctx = info.context
    with ctx.services.database.transaction():
        project, entity = _administered(ctx, input), _of_user(ctx, input["user_id"])
        ctx.services.projects.change_member(project, entity, input["user_project_role"])
    return {"success": True}


@mutation.field("updateProjectTeamMember")
def update_project_team_member(_: None, info: Info, input: dict[str, Any]) -> dict[str, bool]:
    ctx = info.context
    with ctx.services.database.transaction():
        project, entity = _administered(ctx, input), _team(ctx, input["team_id"])
        ctx.services.projects.change_member(project, entity, input["team_project_role"])
    return {"success": True}


def _administered(ctx: Context, input: dict[str, Any]) -> Project:
    """Return the project of a mutation; only its admins may say who its members are."""
    project = ctx.services.projects.by_id(decode_id("Project", input["project_id"]) or 0)
    if ctx.visible(project) is None:
        raise NotFound("project not found")
    ctx.require(project, Access.ADMIN)
    return project


def _entities(ctx: Context, input: dict[str, Any]) -> Iterable[Entity]:
    for user_id in input.get("user_ids") or []:
        yield _of_user(ctx, user_id)
    for team_id in input.get("team_ids") or []:
        yield _team(ctx, team_id)


def _of_user(ctx: Context, text: str) -> Entity:
    user = ctx.services.accounts.user(decode_id("User", text) or 0)
    if user is None:
        raise NotFound("user not found")
    return ctx.services.accounts.own_entity(user)


def _team(ctx: Context, text: str) -> Entity:
    team = ctx.services.accounts.entity_by_id(decode_id("Entity", text) or 0)
    if team.kind != "TEAM":
        raise NotFound("team not found")
    return team

"""Projects, registries and their artifact types."""

from __future__ import annotations

from dataclasses import dataclass

from wbfs.devserver.data.accounts import MEMBER_OF, SELVES, Access, Accounts, Entity, User
from wbfs.devserver.data.database import Database, now
from wbfs.devserver.data.filters import Condition, Field, parse_filters, parse_order
from wbfs.devserver.data.paging import Connection, Pager, PageRequest
from wbfs.devserver.errors import InvalidRequest, NotFound, PermissionDenied

REGISTRY_PREFIX = "wandb-registry-"
PUBLIC_ACCESS = ("USER_READ", "USER_WRITE")  # what everybody may read, logged in or not

MEMBER_ACCESS = {
    "restricted_viewer": Access.LIST,
    "viewer": Access.READ,
    "member": Access.WRITE,
    "admin": Access.ADMIN,
}
"""What a role in a project, or a registry, gives."""

PROJECT_FIELDS = {
    "id": Field(sql="project.id"),
    "name": Field(sql="project.name"),
    "description": Field(sql="project.description"),
    **dict.fromkeys(("created_at", "createdAt"), Field(sql="project.created_at")),
    **dict.fromkeys(("updated_at", "updatedAt"), Field(sql="project.updated_at")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project of an entity; a registry is one of an organization's entity."""

    id: int
    entity_id: int
    name: str
    description: str | None
    access: str
    any_artifact_type: int
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactType:
    """A type of artifacts, e.g. `dataset`, in one project."""

    id: int
    project_id: int
    name: str
    description: str | None
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectMember:
    """A user's own entity, or a team, and its role in a project."""

    entity_id: int
    role: str


class Projects:
    """The projects in `database`, as far as each user may see them."""

    def __init__(self, database: Database, accounts: Accounts, pager: Pager) -> None:
        self._database = database
        self._accounts = accounts
        self._pager = pager

    def access(self, viewer: User | None, project: Project) -> Access:
        """Return what `viewer` may do in `project`: the best of what their roles give."""
        access = self._accounts.access(viewer, self._accounts.entity_by_id(project.entity_id))
        if project.access in PUBLIC_ACCESS:
            access = max(access, Access.READ)
        if project.access == "RESTRICTED" and access < Access.ADMIN:
            access = Access.NONE
        if viewer is None:
            return access
        roles = self._database.column(
            f"SELECT role FROM project_member WHERE project_id = ? AND entity_id IN {SELVES}",
            (project.id, viewer.id, viewer.id),
        )
        return max([access, *(MEMBER_ACCESS[role] for role in roles)])

    def members(self, project: Project, kind: str) -> list[ProjectMember]:
        """Return who has a role in a project of its own; `kind` is USER or TEAM."""
        return self._database.all(
            ProjectMember,
            "SELECT entity_id, role FROM project_member JOIN entity ON entity.id = entity_id"
            " WHERE project_id = ? AND kind = ? ORDER BY entity_id",
            (project.id, kind),
        )

    def add_member(self, project: Project, entity: Entity, role: str | None = None) -> None:
        """Give a user's entity, or a team, a role, unless it has one.

        Without a `role` it is the least of them, and admin for who is that in all projects.
        """
        owner = self._accounts.entity_by_id(project.entity_id)
        user = self._accounts.user(entity.user_id or 0)
        is_admin = self._accounts.access(user, owner) is Access.ADMIN
        self._database.write(
            "INSERT INTO project_member (project_id, entity_id, role) VALUES (?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (project.id, entity.id, role or ("admin" if is_admin else "restricted_viewer")),
        )

    def change_member(self, project: Project, entity: Entity, role: str) -> None:
        """Give a member another role; raises InvalidRequest for an unknown one, or no member."""
        if role not in MEMBER_ACCESS:
            raise InvalidRequest(f"no such role: {role!r}")
        known = self.members(project, entity.kind)
        if entity.id not in [member.entity_id for member in known]:
            raise InvalidRequest(f"{entity.name!r} is no member of {project.name!r}")
        self._database.write(
            "UPDATE project_member SET role = ? WHERE project_id = ? AND entity_id = ?",
            (role, project.id, entity.id),
        )

    def remove_member(self, project: Project, entity: Entity) -> None:
        """Take a member's role in a project from it; idempotent."""
        self._database.write(
            "DELETE FROM project_member WHERE project_id = ? AND entity_id = ?",
            (project.id, entity.id),
        )

    def visible(self, viewer: User | None, entity_name: str, name: str) -> Project | None:
        """Return a project; None if it doesn't exist or `viewer` may not know that it does."""
        project = self._named(entity_name, name)
        if project is None or self.access(viewer, project) < Access.LIST:
            return None
        return project

    def by_id(self, project_id: int) -> Project:
        """Return a project by row id; raises NotFound if there is none."""
        project = self._database.one(Project, "SELECT * FROM project WHERE id = ?", (project_id,))
        if project is None:
            raise NotFound(f"project {project_id}")
        return project

    def writable(
        self, viewer: User | None, entity_name: str, name: str, access: Access = Access.WRITE
    ) -> Project:
        """Return a project to write to, made now if it is missing and no registry.

        Raises PermissionDenied if `viewer` may not, and NotFound for a registry
        that doesn't exist.
        """
        entity = self._accounts.entity(entity_name)
        project = self._named(entity_name, name)
        may = Access.NONE
        if project is not None:
            may = self.access(viewer, project)
        elif entity is not None:
            may = self._accounts.access(viewer, entity)
        if entity is None or may < access:
            raise PermissionDenied(f"permission denied: cannot write to {entity_name}/{name}")
        if project is not None:
            return project
        if entity.kind == "ORGANIZATION":
            raise NotFound(f"registry {name!r} not found in {entity_name!r}")
        return self.create(entity, name)

    def create(self, entity: Entity, name: str) -> Project:
        """Make a private project."""
        if not name or len(name) > 128 or any(c in "/\\#?%:\r\n" for c in name):
            raise InvalidRequest(f"invalid project name: {name!r}")
        self._database.write(
            "INSERT INTO project (entity_id, name, access, created_at, updated_at)"
            " VALUES (?, ?, 'PRIVATE', ?, ?)",
            (entity.id, name, now(), now()),
        )
        project = self._named(entity.name, name)
        assert project is not None
        return project

    def update(
        self,
        project: Project,
        *,
        name: str | None = None,
        description: str | None = None,
        access: str | None = None,
        any_artifact_type: bool | None = None,
    ) -> Project:
        """Change what is not None."""
        self._database.write(
            "UPDATE project SET name = COALESCE(?, name),"
            " description = COALESCE(?, description), access = COALESCE(?, access),"
            " any_artifact_type = COALESCE(?, any_artifact_type), updated_at = ? WHERE id = ?",
            (name, description, access, any_artifact_type, now(), project.id),
        )
        return self.by_id(project.id)

    def delete(self, project: Project) -> None:
        """Remove a project with everything in it."""
        self._database.write(
            "DELETE FROM artifact WHERE collection_id IN"
            " (SELECT id FROM collection WHERE project_id = ?)",
            (project.id,),
        )
        self._database.write("DELETE FROM collection WHERE project_id = ?", (project.id,))
        self._database.write("DELETE FROM run WHERE project_id = ?", (project.id,))
        self._database.write("DELETE FROM project WHERE id = ?", (project.id,))

    def of_entity(
        self,
        viewer: User | None,
        entity: Entity,
        page: PageRequest,
        filters: str | None = None,
        order: str | None = None,
    ) -> Connection[Project]:
        """Return a page of the projects of `entity` that `viewer` may see, newest first."""
        condition = parse_filters(filters, PROJECT_FIELDS)
        visibility = self.visibility(viewer, entity)
        return self._pager.rows(
            Project,
            f"SELECT project.* FROM project WHERE entity_id = ? AND {visibility.sql}"
            f" AND {condition.sql} ORDER BY {parse_order(order, PROJECT_FIELDS, 'id')}",
            (entity.id, *visibility.parameters, *condition.parameters),
            page,
        )

    def visibility(self, viewer: User | None, entity: Entity) -> Condition:
        """Return the condition of the projects of `entity` that `viewer` may see."""
        access = self._accounts.access(viewer, entity)
        if access is Access.ADMIN:
            return Condition(sql="1", parameters=())
        member = viewer.id if viewer else None
        seen = (
            "project.access != 'RESTRICTED'"
            if access >= Access.LIST
            else "project.access IN (?, ?)"
        )
        public = () if access >= Access.LIST else PUBLIC_ACCESS
        return Condition(
            sql=f"({seen} OR project.id IN {MEMBER_OF})", parameters=(*public, member, member)
        )

    def types(self, project: Project, page: PageRequest) -> Connection[ArtifactType]:
        """Return a page of the project's artifact types."""
        return self._pager.rows(
            ArtifactType,
            "SELECT * FROM artifact_type WHERE project_id = ? ORDER BY name",
            (project.id,),
            page,
        )

    def type(self, project: Project, name: str) -> ArtifactType | None:
        """Return one of the project's artifact types by name."""
        return self._database.one(
            ArtifactType,
            "SELECT * FROM artifact_type WHERE project_id = ? AND name = ?",
            (project.id, name),
        )

    def type_by_id(self, type_id: int) -> ArtifactType:
        """Return an artifact type by row id; raises NotFound if there is none."""
        found = self._database.one(
            ArtifactType, "SELECT * FROM artifact_type WHERE id = ?", (type_id,)
        )
        if found is None:
            raise NotFound(f"artifact type {type_id}")
        return found

    def ensure_type(self, project: Project, name: str) -> ArtifactType:
        """Return an artifact type by name, made now if it is missing."""
        self._database.write(
            "INSERT INTO artifact_type (project_id, name, created_at) VALUES (?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (project.id, name, now()),
        )
        found = self.type(project, name)
        assert found is not None
        return found

    def _named(self, entity_name: str, name: str) -> Project | None:
        return self._database.one(
            Project,
            "SELECT project.* FROM project JOIN entity ON entity.id = project.entity_id"
            " WHERE entity.name = ? AND project.name = ?",
            (entity_name, name),
        )

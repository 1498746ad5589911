"""Users, teams, organizations, API keys and what each may do.

Also the declarative document by which tests create them (`Accounts.apply`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec

from wbfs.devserver.data.database import Database, now
from wbfs.devserver.errors import InvalidRequest, NotFound

KEY_PREFIX_LENGTH = 6
"""How much of a key is shown as its name."""


class Access(IntEnum):
    """What a user may do in an entity or a project; each level includes those below."""

    NONE = 0
    LIST = 1  # a view-only seat: names, manifests, no file
    READ = 2
    WRITE = 3
    ADMIN = 4


SELVES = (
    "(SELECT id FROM entity WHERE user_id = ? UNION SELECT entity_id FROM member WHERE user_id = ?)"
)
"""A user's own entity and those that they belong to; the user's id is given twice."""
MEMBER_OF = f"(SELECT project_id FROM project_member WHERE entity_id IN {SELVES})"
"""The projects of which one of those is a member."""

ROLE_ACCESS = {"view-only": Access.LIST, "member": Access.WRITE, "admin": Access.ADMIN}


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person or a service account."""

    id: int
    name: str
    email: str
    admin: int
    created_at: str
    default_entity_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is kept of a key that may be shown: its first characters."""

    id: int
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What owns projects: a user's own entity, a team, or an organization's."""

    id: int
    name: str
    kind: str
    user_id: int | None
    organization_id: int | None
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A group of teams with an entity of its own, which holds the registries."""

    id: int
    name: str
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user's role in a team."""

    user_id: int
    role: str


class UserDocument(msgspec.Struct, forbid_unknown_fields=True):
    """A user to be there: their name, and optionally a key to be valid beside others.

    default_entity: the entity that is meant where they name none; None to leave it, at
        first their own.
    """

    name: str
    email: str = ""
    admin: bool = False
    api_key: str | None = None
    default_entity: str | None = None


class TeamDocument(msgspec.Struct, forbid_unknown_fields=True):
    """A team to be there, with exactly these members and their roles."""

    name: str
    members: dict[str, str] = {}


class OrganizationDocument(msgspec.Struct, forbid_unknown_fields=True):
    """An organization to be there: its teams, its entity's name, its registries."""

    name: str
    teams: list[str] = []
    members: dict[str, str] = {}
    entity: str | None = None
    registries: tuple[str, ...] = ("model", "dataset")


class AccountsDocument(msgspec.Struct, forbid_unknown_fields=True):
    """What `Accounts.apply` takes, as JSON or as Python values."""

    users: list[UserDocument] = []
    teams: list[TeamDocument] = []
    organizations: list[OrganizationDocument] = []


class Accounts:
    """Who there is, and what they may do, in `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, document: Mapping[str, Any]) -> None:
        """Make the users, teams and organizations of `document` exist; idempotent.

        Raises InvalidRequest if the document isn't an `AccountsDocument`, names a role or
        a user that does not exist, or a name that is taken by another kind of entity.
        """
        try:
            accounts = msgspec.convert(document, AccountsDocument)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"accounts: {error}") from error
        with self._database.transaction():
            for user in accounts.users:
                self._apply_user(user)
            for team in accounts.teams:
                entity_id = self._apply_entity(team.name, "TEAM")
                self._apply_members(entity_id, team.members)
            for organization in accounts.organizations:
                self._apply_organization(organization)
            for user in accounts.users:
                self._apply_default_entity(user)

    def authenticate(self, api_key: str) -> User | None:
        """Return the user whose key this is."""
        return self._database.one(
            User,
            "SELECT user.* FROM user JOIN api_key ON api_key.user_id = user.id WHERE sha256 = ?",
            (_fingerprint(api_key),),
        )

    def user(self, user_id: int) -> User | None:
        """Return a user by row id."""
        return self._database.one(User, "SELECT * FROM user WHERE id = ?", (user_id,))

    def users(self, query: str) -> list[User]:
        """Return the users whose name or address is `query`."""
        return self._database.all(
            User, "SELECT * FROM user WHERE ? IN (name, email) ORDER BY id", (query,)
        )

    def api_keys(self, user: User) -> list[ApiKey]:
        """Return what there is of a user's keys; the keys themselves are not kept."""
        return self._database.all(
            ApiKey, "SELECT id, prefix FROM api_key WHERE user_id = ? ORDER BY id", (user.id,)
        )

    def own_entity(self, user: User) -> Entity:
        """Return the entity that is a user's own."""
        entity = self._database.one(Entity, "SELECT * FROM entity WHERE user_id = ?", (user.id,))
        assert entity is not None
        return entity

    def default_entity(self, user: User) -> Entity:
        """Return the entity that is meant where a user names none: a team, or their own."""
        if user.default_entity_id is None:
            return self.own_entity(user)
        return self.entity_by_id(user.default_entity_id)

    def entity(self, name: str) -> Entity | None:
        """Return an entity by name, whoever may see it."""
        return self._database.one(Entity, "SELECT * FROM entity WHERE name = ?", (name,))

    def entity_by_id(self, entity_id: int) -> Entity:
        """Return an entity by row id; raises NotFound if there is none."""
        entity = self._database.one(Entity, "SELECT * FROM entity WHERE id = ?", (entity_id,))
        if entity is None:
            raise NotFound(f"entity {entity_id}")
        return entity

    def teams(self, user: User) -> list[Entity]:
        """Return the user's own entity and the teams that they belong to."""
        return self._database.all(
            Entity,
            "SELECT * FROM entity WHERE user_id = ? OR kind = 'TEAM'"
            " AND id IN (SELECT entity_id FROM member WHERE user_id = ?)"
            " ORDER BY kind = 'TEAM', name",
            (user.id, user.id),
        )

    def members(self, entity: Entity) -> list[Member]:
        """Return a team's members with their roles."""
        return self._database.all(
            Member,
            "SELECT user_id, role FROM member WHERE entity_id = ? ORDER BY user_id",
            (entity.id,),
        )

    def organization(self, name: str) -> Organization | None:
        """Return an organization by name, whoever may see it."""
        return self._database.one(
            Organization, "SELECT * FROM organization WHERE name = ?", (name,)
        )

    def organization_by_id(self, organization_id: int | None) -> Organization | None:
        """Return an organization by row id."""
        return self._database.one(
            Organization, "SELECT * FROM organization WHERE id = ?", (organization_id,)
        )

    def organization_entity(self, organization: Organization) -> Entity:
        """Return the entity that holds an organization's registries."""
        entity = self._database.one(
            Entity,
            "SELECT * FROM entity WHERE organization_id = ? AND kind = 'ORGANIZATION'",
            (organization.id,),
        )
        if entity is None:
            raise NotFound(f"entity of organization {organization.name}")
        return entity

    def organizations(self, user: User) -> list[Organization]:
        """Return the organizations that a user belongs to: directly, by a team or a registry."""
        return self._database.all(
            Organization,
            "SELECT DISTINCT organization.* FROM organization"
            " JOIN entity ON entity.organization_id = organization.id"
            " LEFT JOIN member ON member.entity_id = entity.id"
            " LEFT JOIN project ON project.entity_id = entity.id"
            f" WHERE member.user_id = ? OR project.id IN {MEMBER_OF} ORDER BY organization.name",
            (user.id, user.id, user.id),
        )

    def access(self, user: User | None, entity: Entity) -> Access:
        """Return what `user` (None: not logged in) may do in `entity`'s private projects.

        An organization's entity gives what the best of the user's roles in the
        organization's teams gives, but nobody but its own admins ADMIN.
        """
        if user is None:
            return Access.NONE
        if entity.user_id is not None:
            return Access.ADMIN if entity.user_id == user.id else Access.NONE
        roles = self._database.column(
            "SELECT role FROM member WHERE user_id = ? AND entity_id = ?", (user.id, entity.id)
        )
        access = max((ROLE_ACCESS[role] for role in roles), default=Access.NONE)
        if entity.kind == "ORGANIZATION":
            inherited = self._database.column(
                "SELECT role FROM member JOIN entity ON entity.id = member.entity_id"
                " WHERE member.user_id = ? AND organization_id = ?",
                (user.id, entity.organization_id),
            )
            best = max((ROLE_ACCESS[role] for role in inherited), default=Access.NONE)
            access = max(access, min(best, Access.WRITE))
        return access

    def _apply_user(self, document: UserDocument) -> None:
        self._database.write(
            "INSERT INTO user (name, email, admin, created_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET email = excluded.email, admin = excluded.admin",
            (document.name, document.email or f"{document.name}@localhost", document.admin, now()),
        )
        user_id = self._user_id(document.name)
        self._apply_entity(document.name, "USER", user_id=user_id)
        if document.api_key is not None:
            self._database.write(
                "INSERT INTO api_key (user_id, sha256, prefix) VALUES (?, ?, ?)"
                " ON CONFLICT (sha256)"
                " DO UPDATE SET user_id = excluded.user_id, prefix = excluded.prefix",
                (user_id, _fingerprint(document.api_key), document.api_key[:KEY_PREFIX_LENGTH]),
            )

    def _apply_default_entity(self, document: UserDocument) -> None:
        if document.default_entity is None:
            return
        user_id = self._user_id(document.name)
        entity = self.entity(document.default_entity)
        if entity is None or self.access(self.user(user_id), entity) < Access.LIST:
            raise InvalidRequest(f"{document.name!r} is not in {document.default_entity!r}")
        self._database.write(
            "UPDATE user SET default_entity_id = ? WHERE id = ?", (entity.id, user_id)
        )

    def _apply_organization(self, document: OrganizationDocument) -> None:
        self._database.write(
            "INSERT INTO organization (name, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (document.name, now()),
        )
        organization = self.organization(document.name)
        assert organization is not None
        entity_id = self._apply_entity(
            document.entity or f"{document.name}-org",
            "ORGANIZATION",
            organization_id=organization.id,
        )
        self._apply_members(entity_id, document.members)
        for team in document.teams:
            team_id = self._apply_entity(team, "TEAM")
            self._database.write(
                "UPDATE entity SET organization_id = ? WHERE id = ?", (organization.id, team_id)
            )
        for registry in document.registries:
            self._database.write(
                "INSERT INTO project (entity_id, name, access, created_at, updated_at)"
                " VALUES (?, ?, 'PRIVATE', ?, ?) ON CONFLICT DO NOTHING",
                (entity_id, f"wandb-registry-{registry}", now(), now()),
            )

    def _apply_entity(
        self,
        name: str,
        kind: str,
        *,
        user_id: int | None = None,
        organization_id: int | None = None,
    ) -> int:
        self._database.write(
            "INSERT INTO entity (name, kind, user_id, organization_id, created_at)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (name, kind, user_id, organization_id, now()),
        )
        entity = self.entity(name)
        assert entity is not None
        if entity.kind != kind:
            raise InvalidRequest(f"{name!r} is taken by an entity of kind {entity.kind}")
        return entity.id

    def _apply_members(self, entity_id: int, members: Mapping[str, str]) -> None:
        self._database.write("DELETE FROM member WHERE entity_id = ?", (entity_id,))
        for name, role in members.items():
            if role not in ROLE_ACCESS:
                raise InvalidRequest(f"no such role: {role!r}")
            self._database.write(
                "INSERT INTO member (entity_id, user_id, role) VALUES (?, ?, ?)",
                (entity_id, self._user_id(name), role),
            )

    def _user_id(self, name: str) -> int:
        user_id = self._database.number("SELECT id FROM user WHERE name = ?", (name,))
        if user_id is None:
            raise InvalidRequest(f"no such user: {name!r}")
        return user_id


def _fingerprint(api_key: str) -> str:
    return hashlib.sha256(api_key.encode()).hexdigest()

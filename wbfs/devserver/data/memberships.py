"""Collections and what is in them: memberships, version indices, aliases, tags.

A collection is a sequence (versions are logged here) or a portfolio (versions
are linked here). A membership puts one artifact into one collection, under an
index and aliases that are that collection's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from wbfs.devserver.data.database import Database, now
from wbfs.devserver.data.filters import Condition, Field, parse_filters, parse_order
from wbfs.devserver.data.paging import Connection, Pager, PageRequest
from wbfs.devserver.data.projects import ArtifactType, Project
from wbfs.devserver.errors import InvalidRequest

VERSION = re.compile(r"v(\d+)")
LATEST = "latest"

_CREATED = "collection.created_at"
COLLECTION_FIELDS = {
    **dict.fromkeys(("id", "artifact_collection_id"), Field(sql="collection.id")),
    "name": Field(sql="collection.name"),
    "description": Field(sql="collection.description"),
    **dict.fromkeys(("created_at", "createdAt"), Field(sql=_CREATED)),
    **dict.fromkeys(("updated_at", "updatedAt"), Field(sql="collection.updated_at")),
    "tag": Field(
        sql="EXISTS (SELECT 1 FROM collection_tag JOIN tag ON tag.id = tag_id"
        " WHERE collection_tag.collection_id = collection.id AND {test})",
        value="tag.name",
    ),
}
VERSION_FIELDS = {
    "id": Field(sql="artifact.id"),
    "state": Field(sql="artifact.state"),
    "digest": Field(sql="artifact.digest"),
    "size": Field(sql="artifact.size"),
    "metadata": Field(sql="artifact.metadata"),
    "version": Field(sql="'v' || membership.version_index"),
    **dict.fromkeys(("version_index", "versionIndex"), Field(sql="membership.version_index")),
    **dict.fromkeys(("created_at", "createdAt"), Field(sql="artifact.created_at")),
    **dict.fromkeys(("updated_at", "updatedAt"), Field(sql="artifact.updated_at")),
    "alias": Field(
        sql="EXISTS (SELECT 1 FROM alias WHERE membership_id = membership.id AND {test})",
        value="alias.alias",
    ),
    "tag": Field(
        sql="EXISTS (SELECT 1 FROM artifact_tag JOIN tag ON tag.id = tag_id"
        " WHERE artifact_tag.artifact_id = artifact.id AND {test})",
        value="tag.name",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A named series of versions in a project; `kind` is SEQUENCE or PORTFOLIO."""

    id: int
    project_id: int
    type_id: int
    kind: str
    name: str
    description: str | None
    digest_algorithm: str | None
    next_version_index: int
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One artifact's place in one collection."""

    id: int
    collection_id: int
    artifact_id: int
    version_index: int
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A name in a collection for one of its memberships."""

    id: int
    collection_id: int
    membership_id: int
    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A tag of artifacts or collections."""

    id: int
    name: str


class Memberships:
    """The collections in `database`; no access is checked here."""

    def __init__(self, database: Database, pager: Pager) -> None:
        self._database = database
        self._pager = pager

    def collection(self, project: Project, name: str) -> Collection | None:
        """Return a collection by name."""
        return self._database.one(
            Collection,
            "SELECT * FROM collection WHERE project_id = ? AND name = ?",
            (project.id, name),
        )

    def collection_by_id(self, collection_id: int) -> Collection | None:
        """Return a collection by row id."""
        return self._database.one(
            Collection, "SELECT * FROM collection WHERE id = ?", (collection_id,)
        )

    def collections(
        self,
        project_ids: Condition,
        page: PageRequest,
        *,
        type: ArtifactType | None = None,
        kinds: Iterable[str] = ("SEQUENCE", "PORTFOLIO"),
        filters: str | None = None,
        order: str | None = None,
    ) -> Connection[Collection]:
        """Return a page of collections of the projects `project_id {project_ids.sql}`."""
        condition = parse_filters(filters, COLLECTION_FIELDS)
        kinds = tuple(kinds)
        return self._pager.rows(
            Collection,
            f"SELECT collection.* FROM collection WHERE project_id {project_ids.sql}"
            f" AND (? IS NULL OR type_id = ?) AND kind IN ({', '.join('?' * len(kinds))})"
            f" AND {condition.sql}"
            f" ORDER BY {parse_order(order, COLLECTION_FIELDS, 'collection.id')}",
            (
                *project_ids.parameters,
                *(2 * [type.id if type else None]),
                *kinds,
                *condition.parameters,
            ),
            page,
        )

    def ensure_collection(
        self, project: Project, type: ArtifactType, name: str, kind: str
    ) -> Collection:
        """Return a collection by name, made now if it is missing.

        Raises InvalidRequest if there is one of another type or kind.
        """
        if not name or len(name) > 128 or "/" in name or ":" in name:
            raise InvalidRequest(f"invalid collection name: {name!r}")
        self._database.write(
            "INSERT INTO collection (project_id, type_id, kind, name, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (project.id, type.id, kind, name, now(), now()),
        )
        collection = self.collection(project, name)
        assert collection is not None
        if collection.kind != kind:
            raise InvalidRequest(f"collection {name!r} exists and is a {collection.kind.lower()}")
        if collection.type_id != type.id:
            raise InvalidRequest(f"collection {name!r} exists with a type other than {type.name!r}")
        return collection

    def update_collection(
        self,
        collection: Collection,
        *,
        name: str | None = None,
        description: str | None = None,
        type: ArtifactType | None = None,
        digest_algorithm: str | None = None,
    ) -> Collection:
        """Change what is not None."""
        self._database.write(
            "UPDATE collection SET name = COALESCE(?, name),"
            " description = COALESCE(?, description), type_id = COALESCE(?, type_id),"
            " digest_algorithm = COALESCE(?, digest_algorithm), updated_at = ? WHERE id = ?",
            (name, description, type.id if type else None, digest_algorithm, now(), collection.id),
        )
        updated = self.collection_by_id(collection.id)
        assert updated is not None
        return updated

    def delete_collection(self, collection: Collection) -> None:
        """Remove a collection with its memberships and, in a sequence, its artifacts."""
        self._database.write("DELETE FROM collection WHERE id = ?", (collection.id,))

    def resolve(self, collection: Collection, alias: str) -> Membership | None:
        """Return the membership that an alias, a version `vN` or a digest names."""
        found = self._database.one(
            Membership,
            "SELECT membership.* FROM membership JOIN alias ON membership_id = membership.id"
            " WHERE alias.collection_id = ? AND alias = ?",
            (collection.id, alias),
        )
        version = VERSION.fullmatch(alias)
        if found is None and version is not None:
            found = self._database.one(
                Membership,
                "SELECT * FROM membership WHERE collection_id = ? AND version_index = ?",
                (collection.id, int(version[1])),
            )
        if found is None:
            found = self._database.one(
                Membership,
                "SELECT membership.* FROM membership JOIN artifact ON artifact.id = artifact_id"
                " WHERE membership.collection_id = ? AND artifact.digest = ?"
                " ORDER BY membership.version_index DESC",
                (collection.id, alias),
            )
        return found

    def resolve_name(self, project: Project, name: str) -> Membership | None:
        """Return the membership of `collection[:alias]`; without an alias, `latest`."""
        collection_name, _, alias = name.partition(":")
        collection = self.collection(project, collection_name)
        return None if collection is None else self.resolve(collection, alias or LATEST)

    def membership(self, collection_id: int, artifact_id: int) -> Membership | None:
        """Return an artifact's place in a collection."""
        return self._database.one(
            Membership,
            "SELECT * FROM membership WHERE collection_id = ? AND artifact_id = ?",
            (collection_id, artifact_id),
        )

    def memberships(
        self,
        collection: Collection,
        page: PageRequest,
        *,
        filters: str | None = None,
        order: str | None = None,
    ) -> Connection[Membership]:
        """Return a page of a collection's memberships, newest version first."""
        condition = parse_filters(filters, VERSION_FIELDS)
        return self._pager.rows(
            Membership,
            "SELECT membership.* FROM membership JOIN artifact ON artifact.id = artifact_id"
            f" WHERE membership.collection_id = ? AND {condition.sql} ORDER BY"
            f" {parse_order(order, VERSION_FIELDS, 'membership.version_index')}",
            (collection.id, *condition.parameters),
            page,
        )

    def memberships_in(
        self,
        project_ids: Condition,
        page: PageRequest,
        *,
        collection_filters: str | None = None,
        filters: str | None = None,
        order: str | None = None,
    ) -> Connection[Membership]:
        """Return a page of the memberships of many projects' portfolios, newest first."""
        collections = parse_filters(collection_filters, COLLECTION_FIELDS)
        versions = parse_filters(filters, VERSION_FIELDS)
        return self._pager.rows(
            Membership,
            "SELECT membership.* FROM membership JOIN artifact ON artifact.id = artifact_id"
            " JOIN collection ON collection.id = membership.collection_id"
            f" WHERE kind = 'PORTFOLIO' AND project_id {project_ids.sql}"
            f" AND {collections.sql} AND {versions.sql}"
            f" ORDER BY {parse_order(order, VERSION_FIELDS, 'membership.id')}",
            (*project_ids.parameters, *collections.parameters, *versions.parameters),
            page,
        )

    def of_artifact(self, artifact_id: int) -> list[Membership]:
        """Return every place that an artifact has, its source first."""
        return self._database.all(
            Membership, "SELECT * FROM membership WHERE artifact_id = ? ORDER BY id", (artifact_id,)
        )

    def add(self, collection: Collection, artifact_id: int) -> Membership:
        """Put an artifact into a collection under the next free index; idempotent."""
        found = self.membership(collection.id, artifact_id)
        if found is not None:
            return found
        self._database.write(
            "INSERT INTO membership (collection_id, artifact_id, version_index, created_at)"
            " SELECT id, ?, next_version_index, ? FROM collection WHERE id = ?",
            (artifact_id, now(), collection.id),
        )
        self._database.write(
            "UPDATE collection SET next_version_index = next_version_index + 1, updated_at = ?"
            " WHERE id = ?",
            (now(), collection.id),
        )
        added = self.membership(collection.id, artifact_id)
        assert added is not None
        return added

    def remove(self, membership: Membership) -> None:
        """Take an artifact out; `latest` falls back to the highest version that is left."""
        had_latest = LATEST in [alias.alias for alias in self.aliases(membership)]
        self._database.write("DELETE FROM membership WHERE id = ?", (membership.id,))
        newest = self.newest(membership.collection_id)
        if had_latest and newest is not None:
            self.set_aliases(newest, [LATEST])

    def newest(self, collection_id: int) -> Membership | None:
        """Return the membership with the highest index."""
        return self._database.one(
            Membership,
            "SELECT * FROM membership WHERE collection_id = ? ORDER BY version_index DESC",
            (collection_id,),
        )

    def latest(self, collection: Collection) -> Membership | None:
        """Return what `latest` names."""
        return self.resolve(collection, LATEST)

    def set_aliases(self, membership: Membership, aliases: Iterable[str]) -> None:
        """Move aliases to a membership; raises InvalidRequest for a name that can't be one."""
        for alias in aliases:
            if not alias or "/" in alias or ":" in alias or VERSION.fullmatch(alias):
                raise InvalidRequest(f"invalid alias: {alias!r}")
            self._database.write(
                "INSERT INTO alias (collection_id, membership_id, alias) VALUES (?, ?, ?)"
                " ON CONFLICT (collection_id, alias)"
                " DO UPDATE SET membership_id = excluded.membership_id",
                (membership.collection_id, membership.id, alias),
            )

    def delete_alias(self, membership: Membership, alias: str) -> None:
        """Remove one alias of a membership, if it has it."""
        self._database.write(
            "DELETE FROM alias WHERE membership_id = ? AND alias = ?", (membership.id, alias)
        )

    def aliases(self, membership: Membership) -> list[Alias]:
        """Return the aliases of one membership."""
        return self._database.all(
            Alias, "SELECT * FROM alias WHERE membership_id = ? ORDER BY id", (membership.id,)
        )

    def artifact_aliases(self, artifact_id: int) -> list[Alias]:
        """Return an artifact's aliases in every collection."""
        return self._database.all(
            Alias,
            "SELECT alias.* FROM alias JOIN membership ON membership.id = membership_id"
            " WHERE artifact_id = ? ORDER BY alias.id",
            (artifact_id,),
        )

    def collection_aliases(self, collection: Collection, page: PageRequest) -> Connection[Alias]:
        """Return a page of all aliases of a collection."""
        return self._pager.rows(
            Alias, "SELECT * FROM alias WHERE collection_id = ? ORDER BY id", (collection.id,), page
        )

    def tag(self, owner: str, owner_id: int, names: Iterable[str]) -> None:
        """Add tags to an `owner` ("artifact" or "collection"); idempotent."""
        for name in names:
            if not re.fullmatch(r"[-\w]+( +[-\w]+)*", name):
                raise InvalidRequest(f"invalid tag: {name!r}")
            self._database.write(
                "INSERT INTO tag (name) VALUES (?) ON CONFLICT DO NOTHING", (name,)
            )
            self._database.write(
                f"INSERT INTO {owner}_tag ({owner}_id, tag_id)"
                " SELECT ?, id FROM tag WHERE name = ? ON CONFLICT DO NOTHING",
                (owner_id, name),
            )

    def untag(self, owner: str, owner_id: int, names: Iterable[str]) -> None:
        """Remove tags from an `owner`."""
        for name in names:
            self._database.write(
                f"DELETE FROM {owner}_tag WHERE {owner}_id = ?"
                " AND tag_id IN (SELECT id FROM tag WHERE name = ?)",
                (owner_id, name),
            )

    def tags(self, owner: str, owner_id: int) -> list[Tag]:
        """Return an `owner`'s tags."""
        return self._database.all(
            Tag,
            f"SELECT tag.* FROM tag JOIN {owner}_tag ON tag.id = tag_id"
            f" WHERE {owner}_id = ? ORDER BY tag.name",
            (owner_id,),
        )

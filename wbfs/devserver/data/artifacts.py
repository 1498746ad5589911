"""Artifacts: creation, deduplication, changes, deletion, links and entries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wbfs.devserver.data.accounts import Access, User
from wbfs.devserver.data.database import Database, now
from wbfs.devserver.data.ids import decode_id
from wbfs.devserver.data.memberships import LATEST, Collection, Membership, Memberships
from wbfs.devserver.data.paging import Connection, Pager, PageRequest
from wbfs.devserver.data.projects import Project, Projects
from wbfs.devserver.data.runs import Run
from wbfs.devserver.errors import InvalidRequest, NotFound
from wbfs.devserver.objects.origin import Origin

INHERITED_TTL = -1  # the W&B protocol's mark for "as the collection or team says"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One version: immutable content once its `state` is COMMITTED."""

    id: int
    collection_id: int
    run_id: int | None
    user_id: int | None
    client_id: str | None
    distributed_id: str | None
    state: str
    digest: str
    digest_algorithm: str
    version_index: int | None
    description: str | None
    metadata: str | None
    ttl_duration_seconds: int
    history_step: int | None
    commit_hash: str | None
    requested_aliases: str
    manifest_key: str | None
    size: int
    file_count: int
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file or reference of a committed artifact; a reference has no `object_key`."""

    artifact_id: int
    path: str
    digest: str
    size: int
    ref: str | None
    birth_artifact_id: int | None
    object_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a client says of an artifact that it is about to log."""

    type: str
    collection: str
    digest: str
    digest_algorithm: str
    client_id: str | None
    distributed_id: str | None
    description: str | None
    metadata: str | None
    ttl_duration_seconds: int | None
    history_step: int | None
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    deduplicate: bool


class Artifacts:
    """The artifacts in `database`, whose files are in `origin`."""

    def __init__(
        self,
        database: Database,
        origin: Origin,
        projects: Projects,
        memberships: Memberships,
        pager: Pager,
    ) -> None:
        self._database = database
        self._origin = origin
        self._projects = projects
        self._memberships = memberships
        self._pager = pager

    def by_id(self, artifact_id: int) -> Artifact:
        """Return an artifact by row id; raises NotFound if there is none."""
        artifact = self._database.one(
            Artifact, "SELECT * FROM artifact WHERE id = ?", (artifact_id,)
        )
        if artifact is None:
            raise NotFound(f"artifact {artifact_id} not found")
        return artifact

    def by_client_id(self, client_id: str) -> Artifact | None:
        """Return the artifact that a client created under this id of its own."""
        return self._database.one(
            Artifact, "SELECT * FROM artifact WHERE client_id = ?", (client_id,)
        )

    def by_opaque_id(self, text: str) -> Artifact | None:
        """Return the artifact of an API id."""
        return self._database.one(
            Artifact, "SELECT * FROM artifact WHERE id = ?", (decode_id("Artifact", text),)
        )

    def access(self, viewer: User | None, artifact: Artifact) -> Access:
        """Return the best that `viewer` may do with an artifact, wherever it is a member."""
        project_ids = self._database.column(
            "SELECT project_id FROM collection WHERE id = ? UNION"
            " SELECT project_id FROM collection JOIN membership ON collection_id = collection.id"
            " WHERE artifact_id = ?",
            (artifact.collection_id, artifact.id),
        )
        return max(
            self._projects.access(viewer, self._projects.by_id(int(project_id)))
            for project_id in project_ids
        )

    def sequence(self, artifact: Artifact) -> Collection:
        """Return the collection that an artifact was logged to."""
        collection = self._memberships.collection_by_id(artifact.collection_id)
        assert collection is not None
        return collection

    def project(self, artifact: Artifact) -> Project:
        """Return the project that an artifact was logged to."""
        return self._projects.by_id(self.sequence(artifact).project_id)

    def create(self, project: Project, draft: Draft, run: Run | None, user: User) -> Artifact:
        """Return the artifact to upload to, or a COMMITTED one of the same content.

        Idempotent by client id, and by distributed id while it is pending. The aliases
        of a new artifact move when it is committed, those of a known one now.
        """
        if draft.client_id is not None:
            known = self.by_client_id(draft.client_id)
            if known is not None:
                return known
        collection = self._memberships.ensure_collection(
            project, self._projects.ensure_type(project, draft.type), draft.collection, "SEQUENCE"
        )
        if draft.distributed_id is not None:
            pending = self._database.one(
                Artifact,
                "SELECT * FROM artifact"
                " WHERE collection_id = ? AND distributed_id = ? AND state = 'PENDING'",
                (collection.id, draft.distributed_id),
            )
            if pending is not None:
                self._record_output(pending, run)
                return pending
        if draft.deduplicate:
            same = self._database.one(
                Artifact,
                "SELECT * FROM artifact WHERE collection_id = ? AND digest = ?"
                " AND digest_algorithm = ? AND state = 'COMMITTED' ORDER BY id DESC",
                (collection.id, draft.digest, draft.digest_algorithm),
            )
            if same is not None:
                membership = self._memberships.add(collection, same.id)
                self._memberships.set_aliases(membership, draft.aliases)
                self._memberships.tag("artifact", same.id, draft.tags)
                self._record_output(same, run)
                return same
        self._memberships.update_collection(collection, digest_algorithm=draft.digest_algorithm)
        artifact_id = self._insert(collection, draft, run, user)
        self._memberships.tag("artifact", artifact_id, draft.tags)
        artifact = self.by_id(artifact_id)
        self._record_output(artifact, run)
        return artifact

    def _insert(self, collection: Collection, draft: Draft, run: Run | None, user: User) -> int:
        return self._database.write(
            "INSERT INTO artifact (collection_id, run_id, user_id, client_id, distributed_id,"
            " state, digest, digest_algorithm, description, metadata, ttl_duration_seconds,"
            " history_step, requested_aliases, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, 'PENDING', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                collection.id,
                run.id if run else None,
                user.id,
                draft.client_id,
                draft.distributed_id,
                draft.digest,
                draft.digest_algorithm,
                draft.description,
                draft.metadata,
                INHERITED_TTL if draft.ttl_duration_seconds is None else draft.ttl_duration_seconds,
                draft.history_step,
                json.dumps(draft.aliases),
                now(),
                now(),
            ),
        )

    def update(
        self,
        artifact: Artifact,
        *,
        description: str | None,
        metadata: str | None,
        ttl_duration_seconds: int | None,
    ) -> Artifact:
        """Change what is not None."""
        self._database.write(
            "UPDATE artifact SET description = COALESCE(?, description),"
            " metadata = COALESCE(?, metadata),"
            " ttl_duration_seconds = COALESCE(?, ttl_duration_seconds), updated_at = ?"
            " WHERE id = ?",
            (description, metadata, ttl_duration_seconds, now(), artifact.id),
        )
        return self.by_id(artifact.id)

    def link(
        self, artifact: Artifact, project: Project, portfolio_name: str, aliases: Iterable[str]
    ) -> Membership:
        """Put an artifact into a portfolio, made now if it is missing; `latest` moves too."""
        if artifact.state != "COMMITTED":
            raise InvalidRequest("only a committed artifact can be linked")
        type_name = self._projects.type_by_id(self.sequence(artifact).type_id).name
        portfolio = self._memberships.ensure_collection(
            project, self._projects.ensure_type(project, type_name), portfolio_name, "PORTFOLIO"
        )
        membership = self._memberships.add(portfolio, artifact.id)
        self._memberships.set_aliases(membership, [LATEST, *aliases])
        return membership

    def delete(self, artifact: Artifact, *, delete_aliases: bool) -> Artifact:
        """Delete an artifact, its links, and the objects that no other artifact has.

        Raises InvalidRequest if it has aliases and they are not to be deleted.
        """
        if not delete_aliases and self._memberships.artifact_aliases(artifact.id):
            raise InvalidRequest("artifact has aliases; delete them with it or remove them first")
        for membership in self._memberships.of_artifact(artifact.id):
            self._memberships.remove(membership)
        keys = self._database.column(
            "SELECT DISTINCT object_key FROM entry WHERE artifact_id = ?"
            " AND object_key IS NOT NULL AND NOT EXISTS (SELECT 1 FROM entry AS other"
            " WHERE other.object_key = entry.object_key AND other.artifact_id != ?)",
            (artifact.id, artifact.id),
        )
        self._database.write("DELETE FROM entry WHERE artifact_id = ?", (artifact.id,))
        self._database.write(
            "UPDATE artifact SET state = 'DELETED', client_id = NULL, manifest_key = NULL,"
            " updated_at = ? WHERE id = ?",
            (now(), artifact.id),
        )
        for key in keys:
            self._database.write("DELETE FROM object WHERE object_key = ?", (key,))
            self._origin.delete(key)
        return self.by_id(artifact.id)

    def use(self, artifact: Artifact, run: Run) -> None:
        """Record an artifact as an input of a run; idempotent."""
        self._record(artifact, run, "INPUT")

    def _record_output(self, artifact: Artifact, run: Run | None) -> None:
        if run is not None:
            self._record(artifact, run, "OUTPUT")

    def _record(self, artifact: Artifact, run: Run, direction: str) -> None:
        self._database.write(
            "INSERT INTO run_artifact (run_id, artifact_id, direction) VALUES (?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (run.id, artifact.id, direction),
        )

    def of_run(self, run: Run, direction: str, page: PageRequest) -> Connection[Artifact]:
        """Return a page of a run's committed artifacts; `direction` is INPUT or OUTPUT."""
        return self._pager.rows(
            Artifact,
            "SELECT artifact.* FROM artifact JOIN run_artifact ON artifact_id = artifact.id"
            " WHERE run_artifact.run_id = ? AND direction = ? AND state = 'COMMITTED'"
            " ORDER BY artifact.id",
            (run.id, direction),
            page,
        )

    def used_by(self, artifact: Artifact, page: PageRequest) -> Connection[Run]:
        """Return a page of the runs that have an artifact as their input."""
        return self._pager.rows(
            Run,
            "SELECT run.* FROM run JOIN run_artifact ON run_artifact.run_id = run.id"
            " WHERE artifact_id = ? AND direction = 'INPUT' ORDER BY run.id",
            (artifact.id,),
            page,
        )

    def entries(
        self, artifact: Artifact, page: PageRequest, names: Sequence[str] | None
    ) -> Connection[Entry]:
        """Return a page of an artifact's entries by path; only `names` if they are given."""
        if names is None:
            return self._pager.keyed_rows(
                Entry,
                "SELECT * FROM entry WHERE artifact_id = ?",
                (artifact.id,),
                page,
                "entry.path",
                lambda entry: entry.path,
            )
        # CROSS JOIN keeps SQLite from reading all entries to find a few.
        return self._pager.keyed_rows(
            Entry,
            "SELECT DISTINCT entry.* FROM json_each(?) AS name CROSS JOIN entry"
            " WHERE entry.path = name.value AND artifact_id = ?",
            (json.dumps(list(names)), artifact.id),
            page,
            "entry.path",
            lambda entry: entry.path,
        )

    def size_of_entity(self, entity_id: int) -> int:
        """Return the bytes of all versions that were logged to an entity's projects."""
        total = self._database.number(
            "SELECT SUM(artifact.size) FROM artifact"
            " JOIN collection ON collection.id = artifact.collection_id"
            " JOIN project ON project.id = project_id WHERE entity_id = ? HAVING COUNT(*) > 0",
            (entity_id,),
        )
        return total or 0

    def objects_in_entity(self, entity_id: int, digest: str) -> list[Entry]:
        """Return the entries of an entity's artifacts that have this base64 digest."""
        return self._database.all(
            Entry,
            "SELECT entry.* FROM entry JOIN membership USING (artifact_id)"
            " JOIN collection ON collection.id = membership.collection_id"
            " JOIN project ON project.id = project_id"
            " WHERE project.entity_id = ? AND entry.digest = ? AND object_key IS NOT NULL",
            (entity_id, digest),
        )

    def objects_in_collection(
        self, collection: Collection, birth_artifact_id: int | None, digest: str
    ) -> list[Entry]:
        """Return the entries of a collection's artifacts with this digest and birth."""
        return self._database.all(
            Entry,
            "SELECT entry.* FROM entry JOIN membership USING (artifact_id)"
            " WHERE collection_id = ? AND birth_artifact_id = ? AND entry.digest = ?"
            " AND object_key IS NOT NULL",
            (collection.id, birth_artifact_id, digest),
        )

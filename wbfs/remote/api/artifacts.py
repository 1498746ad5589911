"""W&B's artifacts: who am I, what is there, which version is meant, where are its files.

Blocking code, for worker threads; every call has a deadline. All calls raise AccessDenied, and
RemoteError or its kinds where the server can't be had.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from wbfs.model.entries import Collection, Project, Version, Viewer
from wbfs.model.errors import (
    AccessDenied,
    NotFound,
    RateLimited,
    RemoteError,
    RemoteProtocolError,
    TooLarge,
)
from wbfs.remote.api import queries
from wbfs.remote.api.answers import (
    COMMITTED,
    artifact_id_of,
    membership_at,
    parse_collection,
    parse_direct_url,
    parse_file_url,
    parse_listed_version,
    parse_member,
    parse_memberships,
    parse_organizations,
    parse_place,
    parse_project,
    parse_viewer,
)
from wbfs.remote.api.changes import ChangesApi
from wbfs.remote.api.features import Features
from wbfs.remote.api.graphql import GraphQL, Page, PageRequest, QueryRefused, follow
from wbfs.remote.api.runs import RunsApi
from wbfs.remote.credentials import Credentials
from wbfs.remote.http.bytes import SLOWEST_BYTES_PER_S, Location, open_stream
from wbfs.remote.http.transport import Deadline, Transport

MOST_PLACES = 10
"""Collections of an artifact that are tried where it is no longer in that which was known."""
MANIFEST_ATTEMPTS = 3
"""Times in a row that a manifest is asked for in vain, each with a fresh URL: they don't last."""


class WandbApi:
    """The artifacts that one user may see.

    `as_of` is the moment of which their versions are, as ISO 8601 writes it; empty for now.
    """

    as_of = ""

    def __init__(self, *, transport: Transport, credentials: Credentials) -> None:
        self._transport = transport
        self._graphql = GraphQL(transport=transport, credentials=credentials)
        self._features = Features(self._graphql)
        self.runs = RunsApi(self._graphql, self._features)
        self.changes = ChangesApi(self._graphql)
        # Versions whose names have become others, by id.
        self._renamed: dict[str, Version] = {}

    def viewer(self, *, deadline: Deadline) -> Viewer:
        """Return whose key it is."""
        data = self._graphql.execute(queries.VIEWER, {}, deadline=deadline)
        viewer = data.get("viewer")
        if viewer is None:
            raise AccessDenied(
                "the server knows nobody by this API key: run `wandb login`, or check"
                " WANDB_API_KEY, the file that WBFS_TOKEN_FILE or --token-file names, and"
                " WANDB_BASE_URL"
            )
        return parse_viewer(viewer)

    def ask_features(self, *, deadline: Deadline) -> None:
        """Find out what the server can do, so that the first version is not waited for longer."""
        self._has_algorithms(deadline)

    def entity_exists(self, entity: str, *, deadline: Deadline) -> bool:
        """Whether there is such a user or team, as far as the server tells."""
        data = self._graphql.execute(queries.ENTITY, {"entity": entity}, deadline=deadline)
        return data.get("entity") is not None

    def organization_entity(self, name: str, *, member: str, deadline: Deadline) -> str:
        """Return the entity that holds an organization's registries.

        `name` is the organization's, or its entity's; `member` is an entity of the user's, through
        which organizations are found. An empty `name` means the only one. Raises NotFound.
        """
        data = self._graphql.execute(queries.ORGANIZATIONS, {"entity": member}, deadline=deadline)
        by_entity = parse_organizations(data.get("entity") or {})
        matching = [one for one, other in by_entity.items() if not name or name in (one, other)]
        if len(matching) != 1:
            known = ", ".join(sorted(by_entity)) or "none"
            raise NotFound(
                f"which organization's registry is meant? Name it in front; yours are: {known}"
            )
        return matching[0]

    def projects(self, entity: str, wanted: PageRequest, *, deadline: Deadline) -> Page[Project]:
        """Return a page of an entity's projects. Raises NotFound."""
        edges = self._graphql.page(
            queries.PROJECTS,
            {"entity": entity},
            ["models"],
            wanted,
            missing=f"there is no entity {entity!r}",
            deadline=deadline,
        )
        return edges.map(lambda edge: parse_project(edge["node"], entity))

    def project(self, entity: str, name: str, *, deadline: Deadline) -> Project:
        """Return one project. Raises NotFound."""
        data = self._graphql.execute(
            queries.PROJECT, {"entity": entity, "project": name}, deadline=deadline
        )
        missing = f"there is no project {entity}/{name}, or you may not see it"
        return parse_project(follow(data, ["project"], missing=missing), entity)

    def collections(
        self, entity: str, project: str, wanted: PageRequest, *, deadline: Deadline
    ) -> Page[Collection]:
        """Return a page of a project's collections of every type, source and linked.

        Raises NotFound.
        """
        edges = self._graphql.page(
            queries.COLLECTIONS,
            {"entity": entity, "project": project},
            ["project", "artifactCollections"],
            wanted,
            missing=f"there is no project {entity}/{project}, or you may not see it",
            deadline=deadline,
        )
        return edges.map(lambda edge: parse_collection(edge["node"], entity, project))

    def collection(self, entity: str, project: str, name: str, *, deadline: Deadline) -> Collection:
        """Return one collection. Raises NotFound."""
        data = self._graphql.execute(
            queries.COLLECTION,
            {"entity": entity, "project": project, "collection": name},
            deadline=deadline,
        )
        missing = f"there is no artifact {entity}/{project}/{name}, or you may not see it"
        node = follow(data, ["project", "artifactCollection"], missing=missing)
        return parse_collection(node, entity, project)

    def versions(
        self, collection: Collection, wanted: PageRequest, *, deadline: Deadline
    ) -> Page[Version]:
        """Return a page of a collection's committed versions with their names in it.

        Raises NotFound.
        """
        return self._list_versions(collection, wanted, deadline, with_memberships=False)

    def _list_versions(
        self,
        collection: Collection,
        wanted: PageRequest,
        deadline: Deadline,
        *,
        with_memberships: bool,
    ) -> Page[Version]:
        """Do what `versions` does; with memberships it is known when each joined, too."""
        edges = self._graphql.page(
            queries.versions(
                with_algorithm=self._has_algorithms(deadline), with_memberships=with_memberships
            ),
            {
                "entity": collection.entity,
                "project": collection.project,
                "type": collection.type,
                "collection": collection.name,
                "filters": json.dumps({"state": COMMITTED}),
            },
            ["project", "artifactType", "artifactCollection", "artifacts"],
            wanted,
            missing=f"the artifact {collection.entity}/{collection.project}/{collection.name} is"
            " gone",
            deadline=deadline,
        )
        place = (collection.entity, collection.project, collection.name)
        return edges.map(lambda edge: parse_listed_version(edge, place))

    def version(
        self, entity: str, project: str, collection: str, alias: str, *, deadline: Deadline
    ) -> Version:
        """Return what `alias` names: `vN`, an alias, a digest, or an artifact's id.

        Raises NotFound.
        """
        place = (entity, project, collection)
        missing = f"there is no version or alias {alias!r} of {'/'.join(place)}"
        if (artifact_id := artifact_id_of(alias)) is not None:
            return self._version_by_id(artifact_id, place, missing, deadline)
        data = self._graphql.execute(
            queries.membership(with_algorithm=self._has_algorithms(deadline)),
            {"entity": entity, "project": project, "name": f"{collection}:{alias}"},
            deadline=deadline,
        )
        node = follow(data, ["project", "artifactCollectionMembership"], missing=missing)
        return parse_member(node, follow(node, ["artifact"], missing=missing), place, missing)

    def version_by_id(self, artifact_id: str, *, deadline: Deadline) -> Version:
        """Return an artifact as a version of the collection that it was logged to.

        The id is as the server gives it, or the hexadecimal form that references have. Raises
        NotFound.
        """
        missing = f"there is no artifact of id {artifact_id}, or you may not see it"
        return self._version_by_id(
            artifact_id_of(artifact_id) or artifact_id, None, missing, deadline
        )

    def _version_by_id(
        self,
        artifact_id: str,
        place: tuple[str, str, str] | None,
        missing: str,
        deadline: Deadline,
    ) -> Version:
        data = self._graphql.execute(
            queries.artifact_by_id(with_algorithm=self._has_algorithms(deadline)),
            {"id": artifact_id},
            deadline=deadline,
        )
        return _member_of(follow(data, ["artifact"], missing=missing), place, missing)

    def versions_by_id(
        self, artifact_ids: Sequence[str], *, deadline: Deadline
    ) -> dict[str, Version]:
        """Return what `version_by_id` does of each id, in one question if the server lets it.

        Those that it would raise NotFound of are missing.
        """
        ids = {text: found for text in artifact_ids if (found := artifact_id_of(text))}
        if not ids:
            return {}
        variables = {f"id{number}": artifact_id for number, artifact_id in enumerate(ids.values())}
        query = queries.artifacts_by_id(len(ids), with_algorithm=self._has_algorithms(deadline))
        try:
            data = self._graphql.execute(query, variables, deadline=deadline)
        except QueryRefused:
            # For the sake of one of them, maybe.
            if len(ids) == 1:
                raise
            return self._one_by_one(ids, deadline)
        versions = {}
        for number, text in enumerate(ids):
            missing = f"there is no artifact of id {text}, or you may not see it"
            with contextlib.suppress(NotFound):
                artifact = follow(data, [f"a{number}"], missing=missing)
                versions[text] = _member_of(artifact, None, missing)
        return versions

    def _one_by_one(self, artifact_ids: Iterable[str], deadline: Deadline) -> dict[str, Version]:
        versions = {}
        for text in artifact_ids:
            with contextlib.suppress(NotFound, QueryRefused):
                versions[text] = self.version_by_id(text, deadline=deadline)
        return versions

    def manifest(
        self,
        version: Version,
        file: IO[bytes],
        *,
        limit: int,
        deadline: Deadline,
        is_patient: bool = True,
    ) -> None:
        """Append a version's manifest, a JSON document, to `file`, which is empty.

        Where a connection is cut it goes on behind what came, with a fresh URL, and so it does at
        the deadline, if `is_patient`, as long as bytes come at `SLOWEST_BYTES_PER_S`. Raises
        NotFound; TooLarge where it has more than `limit` bytes; and OSError where `file` does.
        """
        timeout_s, began_s = deadline.remaining_s, time.monotonic()
        futile = 0
        while True:
            had = file.tell()
            try:
                self._append_manifest(version, file, limit, deadline)
                return
            except (RateLimited, TooLarge):
                # Fewer requests is what the server asks for; and what is too large stays so.
                raise
            except RemoteError:
                has = file.tell()
                futile = 0 if has > had else futile + 1
                if has > had and is_patient:
                    latest = Deadline(began_s + timeout_s + has / SLOWEST_BYTES_PER_S)
                    later = min(Deadline.after(timeout_s), latest, key=lambda one: one.at_s)
                    deadline = max(deadline, later, key=lambda one: one.at_s)
                if futile == MANIFEST_ATTEMPTS or deadline.expired:
                    raise

    def _append_manifest(
        self, version: Version, file: IO[bytes], limit: int, deadline: Deadline
    ) -> None:
        data = self._graphql.execute(queries.MANIFEST, {"id": version.id}, deadline=deadline)
        missing = f"{version.path} has no manifest"
        found = follow(data, ["artifact", "currentManifest", "file"], missing=missing)
        location = Location(url=parse_direct_url(found))
        try:
            with open_stream(
                self._transport, location, start=file.tell(), deadline=deadline
            ) as stream:
                if (stream.size or 0) > limit:
                    raise _too_large(version, limit)
                try:
                    for piece in stream.pieces:
                        if file.tell() + len(piece) > limit:
                            raise _too_large(version, limit)
                        file.write(piece)
                except RemoteError:
                    if file.tell() != stream.size:
                        raise
                    # Only the end's sign is missing.
        except TooLarge:
            raise
        except RemoteProtocolError:
            # No ranges on the way: from the start again.
            file.seek(0)
            file.truncate()
            raise

    def file_urls(
        self, version: Version, paths: Sequence[str], *, deadline: Deadline
    ) -> dict[str, str]:
        """Return signed URLs of a version's files by path; a file that the server lacks has none.

        They are asked for by the artifact's names, as the SDK does, and found also where those have
        become others. Raises NotFound where the version is gone.
        """
        known = self._renamed.get(version.id, version)
        try:
            return self._file_urls(known, paths, deadline)
        except NotFound as error:
            # Its project or its collection was renamed, say, or the version is no longer in there.
            for place in self._places(version, deadline):
                with contextlib.suppress(AccessDenied, NotFound):
                    urls = self._file_urls(place, paths, deadline)
                    self._renamed[version.id] = place
                    return urls
            raise error

    def _places(self, version: Version, deadline: Deadline) -> list[Version]:
        """Return an artifact as the member of each of its collections, those like it first."""
        query = queries.artifact_by_id(with_algorithm=self._has_algorithms(deadline))
        data = self._graphql.execute(query, {"id": version.id}, deadline=deadline)
        artifact = data.get("artifact")
        if artifact is None:
            return []
        was = (version.entity, version.project, version.collection)
        members = [
            parse_member(membership, artifact, place, f"{version.path} is gone")
            for place, membership in parse_memberships(artifact)
        ]

        def likeness(member: Version) -> int:
            now = (member.entity, member.project, member.collection)
            return sum(one == other for one, other in zip(was, now, strict=True))

        return sorted(members, key=likeness, reverse=True)[:MOST_PLACES]

    def _file_urls(
        self, version: Version, paths: Sequence[str], deadline: Deadline
    ) -> dict[str, str]:
        missing = f"{version.path} is gone: it was deleted, or you may no longer see it"
        member = ["project", "artifactCollection", "artifactMembership"]

        def check(data: Mapping[str, Any]) -> None:
            # Another one may be called so by now.
            if follow(data, [*member, "artifact"], missing=missing).get("id") != version.id:
                raise NotFound(missing)

        urls: dict[str, str] = {}
        for first in range(0, len(paths), queries.FILES_PAGE_SIZE):
            edges = self._graphql.pages(
                queries.FILE_URLS,
                {
                    "entity": version.entity,
                    "project": version.project,
                    "collection": version.collection,
                    "alias": version.name,
                    "fileNames": list(paths[first : first + queries.FILES_PAGE_SIZE]),
                },
                [*member, "files"],
                queries.FILES_PAGE_SIZE,
                missing=missing,
                check=check,
                deadline=deadline,
            )
            urls.update(parse_file_url(edge) for edge in edges)
        return {path: url for path, url in urls.items() if url}

    def _has_algorithms(self, deadline: Deadline) -> bool:
        """Whether the server knows of digest algorithms; a server that can't say does not."""
        return self._features.has("ARTIFACT_DIGEST_ALGORITHM", deadline)


def _member_of(
    artifact: Mapping[str, Any], place: tuple[str, str, str] | None, missing: str
) -> Version:
    """Return an artifact as a member of the collection at `place`, or that it was logged to.

    Raises NotFound.
    """
    if place is None:
        place = parse_place({"artifactCollection": artifact.get("artifactSequence") or {}})
    membership = membership_at(artifact, place)
    if membership is None:
        raise NotFound(missing)
    return parse_member(membership, artifact, place, missing)


def _too_large(version: Version, limit: int) -> TooLarge:
    return TooLarge(
        f"the manifest of {version.path} has more than {limit} bytes: if it is meant to be so"
        " large, raise --manifest-limit, or WBFS_MANIFEST_LIMIT"
    )

"""W&B's artifacts: who am I, what is there, which version is meant, where are its files.

Blocking code, for worker threads; every call has a deadline. All calls raise AccessDenied, and
RemoteError or its kinds where the server can't be had.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence

from wbfs.model.entries import Collection, Manifest, Project, Version, Viewer
from wbfs.model.errors import AccessDenied, NotFound, RateLimited, RemoteError
from wbfs.remote import queries
from wbfs.remote.answers import (
    COMMITTED,
    artifact_id_of,
    membership_at,
    parse_collection,
    parse_direct_url,
    parse_features,
    parse_file_url,
    parse_listed_version,
    parse_member,
    parse_organizations,
    parse_place,
    parse_project,
    parse_viewer,
)
from wbfs.remote.bytes import Location, open_stream
from wbfs.remote.credentials import Credentials
from wbfs.remote.graphql import GraphQL, QueryRefused, follow
from wbfs.remote.manifests import parse_manifest
from wbfs.remote.transport import Deadline, Transport

MANIFEST_ATTEMPTS = 3
"""Times that a manifest is asked for, each with a fresh URL: they are short-lived."""


class WandbApi:
    """The artifacts that one user may see."""

    def __init__(self, *, transport: Transport, credentials: Credentials) -> None:
        self._transport = transport
        self._graphql = GraphQL(transport=transport, credentials=credentials)
        self._lock = threading.Lock()
        self._features: frozenset[str] | None = None

    def viewer(self, *, deadline: Deadline) -> Viewer:
        """Return whose key it is."""
        data = self._graphql.execute(queries.VIEWER, {}, deadline=deadline)
        viewer = data.get("viewer")
        if viewer is None:
            raise AccessDenied(
                "the server knows nobody by this API key: run `wandb login`, or check"
                " WANDB_API_KEY and WANDB_BASE_URL"
            )
        return parse_viewer(viewer)

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

    def projects(self, entity: str, *, deadline: Deadline) -> Iterator[Project]:
        """Yield an entity's projects, page by page. Raises NotFound."""
        edges = self._graphql.pages(
            queries.PROJECTS,
            {"entity": entity, "perPage": queries.PAGE_SIZE},
            ["models"],
            missing=f"there is no entity {entity!r}",
            deadline=deadline,
        )
        return (parse_project(edge["node"], entity) for edge in edges)

    def project(self, entity: str, name: str, *, deadline: Deadline) -> Project:
        """Return one project. Raises NotFound."""
        data = self._graphql.execute(
            queries.PROJECT, {"entity": entity, "project": name}, deadline=deadline
        )
        missing = f"there is no project {entity}/{name}, or you may not see it"
        return parse_project(follow(data, ["project"], missing=missing), entity)

    def collections(self, entity: str, project: str, *, deadline: Deadline) -> Iterator[Collection]:
        """Yield a project's collections of every type, source and linked. Raises NotFound."""
        edges = self._graphql.pages(
            queries.COLLECTIONS,
            {"entity": entity, "project": project, "perPage": queries.PAGE_SIZE},
            ["project", "artifactCollections"],
            missing=f"there is no project {entity}/{project}, or you may not see it",
            deadline=deadline,
        )
        return (parse_collection(edge["node"], entity, project) for edge in edges)

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

    def versions(self, collection: Collection, *, deadline: Deadline) -> Iterator[Version]:
        """Yield a collection's committed versions with their names in it. Raises NotFound."""
        edges = self._graphql.pages(
            queries.versions(with_algorithm=self._has_algorithms(deadline)),
            {
                "entity": collection.entity,
                "project": collection.project,
                "type": collection.type,
                "collection": collection.name,
                "perPage": queries.PAGE_SIZE,
                "filters": json.dumps({"state": COMMITTED}),
            },
            ["project", "artifactType", "artifactCollection", "artifacts"],
            missing=f"the artifact {collection.entity}/{collection.project}/{collection.name} is"
            " gone",
            deadline=deadline,
        )
        place = (collection.entity, collection.project, collection.name)
        for edge in edges:
            version = parse_listed_version(edge, place)
            if version is not None:
                yield version

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
        artifact = follow(data, ["artifact"], missing=missing)
        if place is None:
            place = parse_place({"artifactCollection": artifact.get("artifactSequence") or {}})
        membership = membership_at(artifact, place)
        if membership is None:
            raise NotFound(missing)
        return parse_member(membership, artifact, place, missing)

    def manifest(self, version: Version, *, deadline: Deadline) -> Manifest:
        """Fetch and parse a version's manifest. Raises NotFound, RemoteProtocolError."""
        attempt = 1
        while True:
            final = attempt == MANIFEST_ATTEMPTS or deadline.expired
            try:
                manifest = self._manifest(version, deadline)
            except RateLimited:
                # Fewer requests is what the server asks for.
                raise
            except RemoteError:
                if final:
                    raise
            else:
                # Damaged on the way, maybe; if it stays so, it is the server's word.
                if manifest.digest_matches or final:
                    return manifest
            attempt += 1

    def _manifest(self, version: Version, deadline: Deadline) -> Manifest:
        data = self._graphql.execute(queries.MANIFEST, {"id": version.id}, deadline=deadline)
        missing = f"{version.path} has no manifest"
        file = follow(data, ["artifact", "currentManifest", "file"], missing=missing)
        location = Location(url=parse_direct_url(file), headers=self._transport.extra_headers)
        with open_stream(self._transport, location, deadline=deadline) as stream:
            body = b"".join(stream.pieces)
        return parse_manifest(
            body,
            digest=version.digest,
            digest_algorithm=version.digest_algorithm,
            what=version.path,
        )

    def file_urls(
        self, version: Version, paths: Sequence[str], *, deadline: Deadline
    ) -> dict[str, str]:
        """Return signed URLs of a version's files by path; a file that the server lacks has none.

        Raises NotFound where the version is gone.
        """
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
                    "perPage": queries.FILES_PAGE_SIZE,
                },
                ["project", "artifactCollection", "artifactMembership", "files"],
                missing=f"{version.path} is gone: it was deleted, or you may no longer see it",
                deadline=deadline,
            )
            urls.update(parse_file_url(edge) for edge in edges)
        return {path: url for path, url in urls.items() if url}

    def _has_algorithms(self, deadline: Deadline) -> bool:
        """Whether the server knows of digest algorithms; a server that can't say does not."""
        with self._lock:
            if self._features is None:
                self._features = self._ask_features(deadline)
            return "ARTIFACT_DIGEST_ALGORITHM" in self._features

    def _ask_features(self, deadline: Deadline) -> frozenset[str]:
        try:
            data = self._graphql.execute(queries.FEATURES, {}, deadline=deadline)
        except QueryRefused:
            # An older server, which knows no such question.
            return frozenset()
        return parse_features(data.get("serverInfo") or {})

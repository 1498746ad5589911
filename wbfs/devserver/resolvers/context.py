"""What every resolver gets: who asks, and the services that answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from graphql import GraphQLResolveInfo

from wbfs.devserver.data.accounts import Access, Accounts, User
from wbfs.devserver.data.artifacts import Artifact, Artifacts
from wbfs.devserver.data.database import Database
from wbfs.devserver.data.ids import decode_id
from wbfs.devserver.data.memberships import Collection, Memberships
from wbfs.devserver.data.paging import PageRequest
from wbfs.devserver.data.projects import Project, Projects
from wbfs.devserver.data.runs import Run, Runs
from wbfs.devserver.errors import NotFound, PermissionDenied
from wbfs.devserver.objects.origin import Origin
from wbfs.devserver.objects.uploads import Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What resolvers need to know of the server's settings."""

    features: Mapping[str, bool]
    xxhash_digests_enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The modules over the database and the origin, one of each."""

    database: Database
    origin: Origin
    accounts: Accounts
    projects: Projects
    runs: Runs
    memberships: Memberships
    artifacts: Artifacts
    uploads: Uploads
    options: ServerOptions
    base_url: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One operation's context: `viewer` is None for a client that isn't logged in."""

    viewer: User | None
    services: Services

    @property
    def user(self) -> User:
        """The viewer of an operation that needs one; raises PermissionDenied without."""
        if self.viewer is None:
            raise PermissionDenied("permission denied: user is not logged in")
        return self.viewer

    @property
    def default_entity(self) -> str:
        """The name of the entity that is meant where none is named; empty if it is nobody's."""
        return self.services.accounts.default_entity(self.viewer).name if self.viewer else ""

    def artifact(self, text: str | None, access: Access) -> Artifact:
        """Return the artifact of an API id.

        Raises NotFound if it doesn't exist or isn't visible, PermissionDenied if the
        viewer has less than `access` to the project that it was logged to.
        """
        services = self.services
        artifact = services.artifacts.by_opaque_id(text or "")
        if artifact is None or services.artifacts.access(self.viewer, artifact) < Access.LIST:
            raise NotFound("artifact not found")
        self.require(services.artifacts.project(artifact), access)
        return artifact

    def collection(self, text: str, access: Access) -> Collection:
        """Return the collection of an API id; raises as `artifact` does."""
        number = decode_id("ArtifactCollection", text)
        collection = self.services.memberships.collection_by_id(number or 0)
        if collection is None:
            raise NotFound("artifact collection not found")
        project = self.services.projects.by_id(collection.project_id)
        if self.services.projects.access(self.viewer, project) < Access.LIST:
            raise NotFound("artifact collection not found")
        self.require(project, access)
        return collection

    def run(self, entity: str, project_name: str, name: str, access: Access) -> Run:
        """Return a run by name; raises as `artifact` does."""
        project = self.services.projects.visible(self.viewer, entity, project_name)
        run = None if project is None else self.services.runs.named(project, name)
        if project is None or run is None:
            raise NotFound(f"run {name!r} not found in {entity}/{project_name}")
        self.require(project, access)
        return run

    def require(self, project: Project, access: Access) -> None:
        """Raise PermissionDenied if the viewer has less than `access` to `project`."""
        if self.services.projects.access(self.viewer, project) < access:
            raise PermissionDenied(f"permission denied: {access.name.lower()} {project.name}")

    def sees_collection(self, collection_id: int) -> bool:
        """Return whether the viewer may know of a collection."""
        collection = self.services.memberships.collection_by_id(collection_id)
        assert collection is not None
        return self.visible(self.services.projects.by_id(collection.project_id)) is not None

    def visible(self, project: Project) -> Project | None:
        """Return `project` if the viewer may know of it."""
        access = self.services.projects.access(self.viewer, project)
        return None if access < Access.LIST else project


Info: TypeAlias = "GraphQLResolveInfo[Context]"


def page(first: int | None, after: str | None) -> PageRequest:
    """Return the page that a field's arguments ask for."""
    return PageRequest(first=first, after=after)

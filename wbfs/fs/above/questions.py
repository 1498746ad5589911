"""What a directory above the versions asks the server, and what the answer is in the tree.

Blocking code, for worker threads, but for `child_of`.
"""

from __future__ import annotations

import logging
from typing import assert_never

from wbfs.fs.nodes import (
    CollectionDirectory,
    EntityDirectory,
    Listed,
    ProjectDirectory,
    RootDirectory,
    VersionDirectory,
    path_of,
)
from wbfs.model.entries import Collection, Project, Version
from wbfs.model.errors import NotFound
from wbfs.model.names import is_safe_component
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.api.graphql import Page, PageRequest
from wbfs.remote.http.transport import Deadline
from wbfs.store.known.catalog import Thing

log = logging.getLogger(__name__)

Child = EntityDirectory | ProjectDirectory | CollectionDirectory | VersionDirectory


def look_up(api: WandbApi, directory: Listed, name: str, deadline: Deadline) -> Thing | None:
    """Ask for one name; None: the server knows no such thing. Raises what `api` does."""
    try:
        match directory:
            case RootDirectory():
                if not api.entity_exists(name, deadline=deadline):
                    raise NotFound(f"there is no entity {name!r}, or you may not see it")
                return name
            case EntityDirectory():
                return api.project(directory.entity, name, deadline=deadline)
            case ProjectDirectory():
                project = directory.project
                return api.collection(project.entity, project.name, name, deadline=deadline)
            case CollectionDirectory():
                of = directory.collection
                return api.version(of.entity, of.project, of.name, name, deadline=deadline)
    except NotFound as error:
        log.info("no %r in %s: %s", name, path_of(directory), error)
        return None


def list_page(
    api: WandbApi, directory: Listed, wanted: PageRequest, deadline: Deadline
) -> Page[tuple[str, Thing]]:
    """Ask for a page of a directory's names and what they are; raises what `api` does.

    A version comes with each of its names, so that there may be more than were asked for. What
    can't be a name in a folder is left out.
    """
    page: Page[tuple[tuple[str, Thing], ...]]
    match directory:
        case RootDirectory():
            viewer = api.viewer(deadline=deadline)
            page = Page(items=(tuple((name, name) for name in viewer.entities),), next=None)
        case EntityDirectory():
            projects = api.projects(directory.entity, wanted, deadline=deadline)
            page = projects.map(lambda project: ((project.name, project),))
        case ProjectDirectory():
            of = directory.project
            collections = api.collections(of.entity, of.name, wanted, deadline=deadline)
            page = collections.map(lambda collection: ((collection.name, collection),))
        case CollectionDirectory():
            versions = api.versions(directory.collection, wanted, deadline=deadline)
            page = versions.map(
                lambda version: tuple((name, version) for name in (version.name, *version.aliases))
            )
        case _:
            assert_never(directory)
    return Page(
        items=tuple(
            (name, thing)
            for named in page.items
            for name, thing in named
            if is_name(directory, name)
        ),
        next=page.next,
    )


def is_name(directory: Listed, name: str) -> bool:
    """Whether it can be a name in a folder; it is said where the server lists one that can't."""
    if is_safe_component(name):
        return True
    log.warning("%s: %r is left out: it can't be a name in a folder", path_of(directory), name)
    return False


def child_of(name: str, thing: Thing | None) -> Child | None:
    """Return the directory of what the server calls `name`."""
    match thing:
        case None:
            return None
        case str():
            return EntityDirectory(thing)
        case Project():
            return ProjectDirectory(thing)
        case Collection():
            return CollectionDirectory(thing)
        case Version():
            return VersionDirectory(thing, name)

"""What the server says of names above the versions, kept for a time-to-live.

Entities, projects, collections, versions and aliases. An answer is asked for once, however many
programs want it, and an outage does not undo it: what was known stays known until the server itself
says otherwise. Trio thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import trio

from wbfs.fetch.flights import Flights
from wbfs.fetch.offload import Kind, Offload
from wbfs.fs.inodes import Inode
from wbfs.fs.nodes import (
    CollectionDirectory,
    EntityDirectory,
    Listed,
    Node,
    ProjectDirectory,
    RootDirectory,
    VersionDirectory,
    inode_of_node,
    path_of,
)
from wbfs.model.errors import NotFound, RemoteError
from wbfs.model.names import is_safe_component, is_version_name
from wbfs.remote.artifacts import WandbApi
from wbfs.remote.transport import Deadline

log = logging.getLogger(__name__)

NEGATIVE_TTL_S = 5.0
"""Seconds that "there is no such name" is believed: what is logged now should soon be there."""
REFRESH_TIMEOUT_S = 5.0
"""Seconds to wait for a newer answer where an older one can be given."""
OUTAGE_S = 10.0
"""Seconds after a failure in which older answers are given without asking again."""
MAX_ANSWERS = 100_000
"""Names remembered, before those past their time are dropped."""

T = TypeVar("T")
Child = EntityDirectory | ProjectDirectory | CollectionDirectory | VersionDirectory


@dataclass(frozen=True, slots=True)
class Answer:
    """What a name is, or None for nothing, until a moment of trio's clock."""

    child: Child | None
    valid_until: float


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory's names and what they are, until a moment of trio's clock."""

    children: tuple[tuple[str, Child], ...]
    valid_until: float


class Names:
    """The names that one mount has looked up or listed."""

    def __init__(
        self,
        *,
        api: WandbApi,
        offload: Offload,
        nursery: trio.Nursery,
        ttl_s: float,
        timeout_s: float,
        pin: bool,
    ) -> None:
        self._api = api
        self._offload = offload
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._pin = pin
        self._outage_until = -math.inf
        self._answers: dict[tuple[Inode, str], Answer] = {}
        self._listings: dict[Inode, Listing] = {}
        self._answer_flights: Flights[Child | None] = Flights(nursery)
        self._listing_flights: Flights[tuple[tuple[str, Child], ...]] = Flights(nursery)

    async def child(self, directory: Listed, name: str) -> Answer:
        """Return what `name` is in `directory`. Raises WbfsError, but never NotFound."""
        if not is_safe_component(name):
            return Answer(None, math.inf)
        key = (inode_of_node(directory), name)
        known = self._answers.get(key)
        if known is not None and trio.current_time() < known.valid_until:
            return known
        what = f"look up {name!r} in {path_of(directory)}"
        old = known is not None and known.child is not None
        try:
            child = await self._ask(
                self._answer_flights,
                key,
                lambda deadline: self._look_up(directory, name, deadline),
                old=old,
                what=what,
            )
        except RemoteError as error:
            if known is None or known.child is None:
                raise
            log.warning("%s; the last answer stands", error)
            child = known.child
        return self._remember(key, child)

    async def children(self, directory: Listed) -> Listing:
        """Return all names of `directory`. Raises WbfsError."""
        inode = inode_of_node(directory)
        known = self._listings.get(inode)
        if known is not None and trio.current_time() < known.valid_until:
            return known
        what = f"list {path_of(directory)}"
        try:
            children = await self._ask(
                self._listing_flights,
                inode,
                lambda deadline: self._list(directory, deadline),
                old=known is not None,
                what=what,
            )
        except RemoteError as error:
            if known is None:
                raise
            log.warning("%s; the last answer stands", error)
            children = known.children
        valid_until = trio.current_time() + self._ttl_s
        current: list[tuple[str, Child]] = []
        for name, child in children:
            answer = self._remember((inode, name), child)
            if answer.child is not None:
                current.append((name, answer.child))
        listing = self._listings[inode] = Listing(tuple(current), valid_until)
        return listing

    async def _ask(
        self,
        flights: Flights[T],
        key: object,
        ask: Callable[[Deadline], T],
        *,
        old: bool,
        what: str,
    ) -> T:
        timeout_s = min(self._timeout_s, REFRESH_TIMEOUT_S) if old else self._timeout_s
        if old and trio.current_time() < self._outage_until:
            raise RemoteError(f"can't {what}: the server could not be had a moment ago")

        async def fly() -> T:
            deadline = Deadline.after(timeout_s)
            return await self._offload.run(Kind.METADATA, lambda: ask(deadline))

        try:
            return await flights.join(key, fly, timeout_s=timeout_s, what=what)
        except RemoteError:
            self._outage_until = trio.current_time() + OUTAGE_S
            raise

    def _remember(self, key: tuple[Inode, str], child: Child | None) -> Answer:
        """Keep an answer; a pinned alias keeps its first."""
        known = self._answers.get(key)
        if known is not None and known.valid_until == math.inf:
            return known
        ttl_s = self._ttl_s if child is not None else min(self._ttl_s, NEGATIVE_TTL_S)
        if self._pin and isinstance(child, VersionDirectory):
            ttl_s = math.inf
        if len(self._answers) >= MAX_ANSWERS:
            now = trio.current_time()
            self._answers = {k: a for k, a in self._answers.items() if a.valid_until > now}
        answer = self._answers[key] = Answer(child, trio.current_time() + ttl_s)
        return answer

    def _look_up(self, directory: Listed, name: str, deadline: Deadline) -> Child | None:
        """Ask the server for one name. In a worker thread."""
        try:
            match directory:
                case RootDirectory():
                    if not self._api.entity_exists(name, deadline=deadline):
                        raise NotFound(f"there is no entity {name!r}, or you may not see it")
                    return EntityDirectory(name)
                case EntityDirectory():
                    return ProjectDirectory(
                        self._api.project(directory.entity, name, deadline=deadline)
                    )
                case ProjectDirectory():
                    project = directory.project
                    return CollectionDirectory(
                        self._api.collection(project.entity, project.name, name, deadline=deadline)
                    )
                case CollectionDirectory():
                    of = directory.collection
                    version = self._api.version(
                        of.entity, of.project, of.name, name, deadline=deadline
                    )
                    return VersionDirectory(version, name)
        except NotFound as error:
            log.info("no %r in %s: %s", name, path_of(directory), error)
            return None

    def _list(self, directory: Listed, deadline: Deadline) -> tuple[tuple[str, Child], ...]:
        """Ask the server for all names of a directory. In a worker thread."""
        pairs: Iterable[tuple[str, Child]]
        match directory:
            case RootDirectory():
                viewer = self._api.viewer(deadline=deadline)
                pairs = [(name, EntityDirectory(name)) for name in viewer.entities]
            case EntityDirectory():
                projects = self._api.projects(directory.entity, deadline=deadline)
                pairs = [(project.name, ProjectDirectory(project)) for project in projects]
            case ProjectDirectory():
                project = directory.project
                collections = self._api.collections(project.entity, project.name, deadline=deadline)
                pairs = [(of.name, CollectionDirectory(of)) for of in collections]
            case CollectionDirectory():
                versions = list(self._api.versions(directory.collection, deadline=deadline))
                pairs = [
                    (name, VersionDirectory(version, name))
                    for version in versions
                    for name in (version.name, *version.aliases)
                ]
        children: dict[str, Child] = {}
        for name, child in pairs:
            if is_safe_component(name):
                children[name] = child
            else:
                log.warning(
                    "%s: %r is left out: it can't be a name in a folder", path_of(directory), name
                )
        return tuple(sorted(children.items(), key=_order))


def _order(item: tuple[str, Node]) -> tuple[int, int | str]:
    """Versions by number, then the other names."""
    name = item[0]
    return (0, int(name[1:])) if is_version_name(name) else (1, name)

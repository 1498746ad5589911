"""What the server says of names above the versions, kept for a time-to-live.

Entities, projects, collections, versions and aliases. An answer is asked for once, however many
programs want it, and by however many mounts: all answers are kept in the catalog. What was known
stays known until the server itself says otherwise, through outages and in mounts that are offline.
Trio thread.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import trio

from wbfs.fetch.flights import Flights
from wbfs.fetch.offload import Kind, Offload
from wbfs.fetch.outage import QUIET_S, Outage, Reach
from wbfs.fs.inodes import ROOT_INODE, Inode
from wbfs.fs.kept import Kept
from wbfs.fs.nodes import (
    CollectionDirectory,
    EntityDirectory,
    Listed,
    ProjectDirectory,
    RootDirectory,
    VersionDirectory,
    inode_of_node,
    path_of,
)
from wbfs.model.entries import Collection, Project, Version, Viewer
from wbfs.model.errors import NotFound, Offline, RemoteError, WbfsError
from wbfs.model.names import is_safe_component, is_version_name
from wbfs.remote.artifacts import WandbApi
from wbfs.remote.graphql import QueryRefused
from wbfs.remote.transport import Deadline
from wbfs.store.catalog import Catalog, GivenListing, GivenName, Thing

log = logging.getLogger(__name__)

NEGATIVE_TTL_S = 5.0
"""Seconds that "there is no such name" is believed: what is logged now should soon be there."""
REFRESH_TIMEOUT_S = 5.0
"""Seconds to wait for a newer answer where an older one can be given."""
MAX_ANSWERS = 100_000
"""Names remembered, before those past their time are dropped."""
ORGANIZATIONS = "/organizations"
"""The catalog's directory of organizations' entities, which is none of the tree's."""

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
        catalog: Catalog,
        reach: Reach,
        offload: Offload,
        nursery: trio.Nursery,
        ttl_s: float,
        timeout_s: float,
        pin: bool,
    ) -> None:
        self._api = api
        self._kept = Kept(catalog=catalog, offload=offload, nursery=nursery)
        self._reach = reach
        self._offload = offload
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._pin = pin
        self._started_at = time.time()
        self._answers: dict[tuple[Inode, str], Answer] = {}
        self._listings: dict[Inode, Listing] = {}
        self._answer_flights: Flights[Answer] = Flights(nursery)
        self._listing_flights: Flights[Listing] = Flights(nursery)
        self._organization_flights: Flights[str] = Flights(nursery)

    @property
    def outage(self) -> Outage | None:
        """Since when the server can't be had; None where it answered when it was asked last."""
        return self._reach.outage

    async def close(self) -> None:
        """Write what the server said down."""
        await self._kept.close()

    def note_login(self, viewer: Viewer) -> None:
        """Keep who the server says that we are: the root's listing."""
        things = _safe("/", [(name, name) for name in viewer.entities])
        self._kept.keep(GivenListing(directory="/", things=things, given_at=time.time()))
        self._adopt(ROOT_INODE, things, self._ttl_s)

    def note_failure(self, error: RemoteError) -> None:
        """Take the server for lost, and as one that was waited for already."""
        if not isinstance(error, Offline):
            self._reach.lost(error, asked_at=-math.inf)

    async def child(self, directory: Listed, name: str) -> Answer:
        """Return what `name` is in `directory`. Raises WbfsError, but never NotFound."""
        if not is_safe_component(name):
            return Answer(None, math.inf)
        key = (inode_of_node(directory), name)
        known = self._answers.get(key)
        if known is not None and trio.current_time() < known.valid_until:
            return known
        return await self._answer_flights.join(
            key,
            lambda: self._find(directory, name, key),
            timeout_s=self._timeout_s,
            what=f"look up {name!r} in {path_of(directory)}",
        )

    async def _find(self, directory: Listed, name: str, key: tuple[Inode, str]) -> Answer:
        path = path_of(directory)
        kept = await self._kept.name(path, name)
        if kept is not None:
            left_s = self._left_s(kept.given_at, self._ttl_of(kept.thing))
            if left_s > 0:
                return self._remember(key, _child_of(name, kept.thing), left_s)
        known = self._answers.get(key)
        try:
            thing = await self._ask(
                lambda deadline: self._look_up(directory, name, deadline),
                has_answer=kept is not None or known is not None,
            )
        except RemoteError as error:
            if kept is not None:
                return self._remember(key, _child_of(name, kept.thing), self._stale_s)
            if known is not None:
                return self._remember(key, known.child, self._stale_s)
            self._raise_unknown(error, "looked up")
        self._kept.keep(GivenName(directory=path, name=name, thing=thing, given_at=time.time()))
        return self._remember(key, _child_of(name, thing), self._ttl_of(thing))

    async def children(self, directory: Listed) -> Listing:
        """Return all names of `directory`. Raises WbfsError."""
        inode = inode_of_node(directory)
        known = self._listings.get(inode)
        if known is not None and trio.current_time() < known.valid_until:
            return known
        return await self._listing_flights.join(
            inode,
            lambda: self._find_children(directory, inode),
            timeout_s=self._timeout_s,
            what=f"list {path_of(directory)}",
        )

    async def _find_children(self, directory: Listed, inode: Inode) -> Listing:
        path = path_of(directory)
        listed_at = await self._kept.listed_at(path)
        if listed_at is not None and self._left_s(listed_at, self._ttl_s) > 0:
            kept = await self._kept.listing(path)
            if kept is not None:
                return self._adopt(inode, kept.things, self._left_s(kept.given_at, self._ttl_s))
        known = self._listings.get(inode)
        try:
            things = await self._ask(
                lambda deadline: self._list(directory, deadline),
                has_answer=listed_at is not None or known is not None,
            )
        except RemoteError as error:
            kept = await self._kept.listing(path)
            if kept is not None:
                return self._adopt(inode, kept.things, self._stale_s)
            if known is not None:
                # The catalog fails too.
                self._listings[inode] = known = Listing(
                    known.children, trio.current_time() + self._stale_s
                )
                return known
            self._raise_unknown(error, "listed")
        self._kept.keep(GivenListing(directory=path, things=things, given_at=time.time()))
        return self._adopt(inode, things, self._ttl_s)

    async def organization_entity(self, name: str, *, member: str) -> str:
        """Return the entity of an organization; see `WandbApi`. Raises WbfsError."""
        return await self._organization_flights.join(
            name,
            lambda: self._find_organization(name, member),
            timeout_s=self._timeout_s,
            what=f"look up the organization {name!r}",
        )

    async def _find_organization(self, name: str, member: str) -> str:
        kept = await self._kept.name(ORGANIZATIONS, name)
        try:
            entity = await self._ask(
                lambda deadline: self._api.organization_entity(
                    name, member=member, deadline=deadline
                ),
                has_answer=kept is not None,
            )
        except RemoteError as error:
            if kept is not None and isinstance(kept.thing, str):
                return kept.thing
            self._raise_unknown(error, "looked up")
        self._kept.keep(
            GivenName(directory=ORGANIZATIONS, name=name, thing=entity, given_at=time.time())
        )
        return entity

    async def _ask(self, ask: Callable[[Deadline], T], *, has_answer: bool) -> T:
        """Return what the server says; with an older answer at hand it isn't waited for long."""
        await self._reach.check(has_answer=has_answer)
        asked_at = trio.current_time()
        deadline = Deadline.after(
            min(self._timeout_s, REFRESH_TIMEOUT_S) if has_answer else self._timeout_s
        )
        try:
            answer = await self._offload.run(Kind.METADATA, lambda: ask(deadline))
        except Offline:
            raise
        except RemoteError as error:
            if isinstance(error, QueryRefused):
                self._reach.found()
            else:
                self._reach.lost(error, asked_at=asked_at)
            raise
        except WbfsError:
            self._reach.found()
            raise
        self._reach.found()
        return answer

    def _raise_unknown(self, error: RemoteError, told: str) -> NoReturn:
        """Raise the error of what the server can't be asked for and never said before."""
        if not isinstance(error, Offline):
            raise error
        reason = self._kept.failure or f"it was never {told} before"
        raise Offline(f"this mount is offline (--offline) and {reason}") from error

    def _ttl_of(self, thing: Thing | None) -> float:
        return min(self._ttl_s, NEGATIVE_TTL_S) if thing is None else self._ttl_s

    @property
    def _stale_s(self) -> float:
        """For how many seconds an answer past its time is given again."""
        return min(self._ttl_s, QUIET_S)

    def _left_s(self, given_at: float, ttl_s: float) -> float:
        """For how many more seconds an answer from the catalog is believed without asking."""
        now = time.time()
        # Whoever mounts after logging a version wants to see it: what is older than the mount is
        # asked for again. And one from the future is of a clock that was set since.
        return ttl_s - (now - given_at) if self._started_at <= given_at <= now else 0.0

    def _remember(self, key: tuple[Inode, str], child: Child | None, for_s: float) -> Answer:
        """Keep an answer in memory; a pinned alias keeps its first."""
        known = self._answers.get(key)
        if known is not None and known.valid_until == math.inf:
            return known
        now = trio.current_time()
        if self._pin and isinstance(child, VersionDirectory):
            for_s = math.inf
        if len(self._answers) >= MAX_ANSWERS:
            self._answers = {k: a for k, a in self._answers.items() if a.valid_until > now}
        answer = self._answers[key] = Answer(child, now + for_s)
        return answer

    def _adopt(self, inode: Inode, things: Iterable[tuple[str, Thing]], for_s: float) -> Listing:
        """Keep a listing, and what its names are, in memory."""
        old = self._listings.get(inode)
        gone = {name for name, _ in old.children} if old else set()
        children: list[tuple[str, Child]] = []
        for name, thing in sorted(things, key=_order):
            gone.discard(name)
            answer = self._remember((inode, name), _child_of(name, thing), for_s)
            if answer.child is not None:
                children.append((name, answer.child))
        for name in gone:
            known = self._answers.get((inode, name))
            if known is not None and known.valid_until != math.inf:
                del self._answers[inode, name]
        listing = Listing(tuple(children), trio.current_time() + for_s)
        self._listings[inode] = listing
        return listing

    def _look_up(self, directory: Listed, name: str, deadline: Deadline) -> Thing | None:
        """Ask the server for one name. In a worker thread."""
        try:
            match directory:
                case RootDirectory():
                    if not self._api.entity_exists(name, deadline=deadline):
                        raise NotFound(f"there is no entity {name!r}, or you may not see it")
                    return name
                case EntityDirectory():
                    return self._api.project(directory.entity, name, deadline=deadline)
                case ProjectDirectory():
                    project = directory.project
                    return self._api.collection(
                        project.entity, project.name, name, deadline=deadline
                    )
                case CollectionDirectory():
                    of = directory.collection
                    return self._api.version(
                        of.entity, of.project, of.name, name, deadline=deadline
                    )
        except NotFound as error:
            log.info("no %r in %s: %s", name, path_of(directory), error)
            return None

    def _list(self, directory: Listed, deadline: Deadline) -> tuple[tuple[str, Thing], ...]:
        """Ask the server for all names of a directory. In a worker thread."""
        pairs: Iterable[tuple[str, Thing]]
        match directory:
            case RootDirectory():
                viewer = self._api.viewer(deadline=deadline)
                pairs = [(name, name) for name in viewer.entities]
            case EntityDirectory():
                projects = self._api.projects(directory.entity, deadline=deadline)
                pairs = ((project.name, project) for project in projects)
            case ProjectDirectory():
                project = directory.project
                collections = self._api.collections(project.entity, project.name, deadline=deadline)
                pairs = ((of.name, of) for of in collections)
            case CollectionDirectory():
                versions = self._api.versions(directory.collection, deadline=deadline)
                pairs = (
                    (name, version)
                    for version in versions
                    for name in (version.name, *version.aliases)
                )
        return _safe(path_of(directory), pairs)


def _safe(path: str, pairs: Iterable[tuple[str, Thing]]) -> tuple[tuple[str, Thing], ...]:
    """Leave out what can't be a name in a folder."""
    things: dict[str, Thing] = {}
    for name, thing in pairs:
        if is_safe_component(name):
            things[name] = thing
        else:
            log.warning("%s: %r is left out: it can't be a name in a folder", path, name)
    return tuple(things.items())


def _child_of(name: str, thing: Thing | None) -> Child | None:
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


def _order(item: tuple[str, Thing]) -> tuple[int, int | str]:
    """Versions by number, then the other names."""
    name = item[0]
    return (0, int(name[1:])) if is_version_name(name) else (1, name)

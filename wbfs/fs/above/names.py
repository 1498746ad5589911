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
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import trio

from wbfs.fetch.work.background import Background
from wbfs.fetch.work.flights import Flights
from wbfs.fetch.work.offload import Offload
from wbfs.fetch.work.outage import QUIET_S, Outage, Reach
from wbfs.fs.above.asking import Asking
from wbfs.fs.above.kept import Kept
from wbfs.fs.above.questions import Child, child_of, is_name
from wbfs.fs.inodes import ROOT_INODE, Inode
from wbfs.fs.listings import Listing
from wbfs.fs.nodes import (
    CollectionDirectory,
    Listed,
    RootDirectory,
    VersionDirectory,
    inode_of_node,
    path_of,
)
from wbfs.model.entries import Version, Viewer
from wbfs.model.errors import Offline, RemoteError, WbfsError
from wbfs.model.names import is_safe_component, is_version_name, name_at
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.api.graphql import Page
from wbfs.store.known.catalog import Catalog, GivenListing, GivenName, Thing

log = logging.getLogger(__name__)

NEGATIVE_TTL_S = 5.0
"""Seconds that "there is no such name" is believed: what is logged now should soon be there."""
SHOWN_ALIASES = 100
"""Aliases that are told with their versions."""
MAX_ANSWERS = 10_000
"""Names remembered, at half to one KB each, before those past their time are dropped."""
ORGANIZATIONS = "/organizations"
"""The catalog's directory of organizations' entities, which is none of the tree's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a name is, or None for nothing, until a moment of trio's clock."""

    child: Child | None
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
        background: Background,
        ttl_s: float,
        timeout_s: float,
        pin: bool,
    ) -> None:
        self._asking = Asking(api=api, reach=reach, offload=offload, timeout_s=timeout_s)
        self._kept = Kept(catalog=catalog, offload=offload, background=background)
        self._background = background
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._pin = pin
        self._started_at = time.time()
        self._answers: dict[tuple[Inode, str], Answer] = {}
        self._max_answers = MAX_ANSWERS
        self._listings: dict[Inode, Listing] = {}
        self._answer_flights: Flights[Answer] = Flights(background)
        self._listing_flights: Flights[Listing] = Flights(background)
        self._organization_flights: Flights[str] = Flights(background)

    @property
    def then(self) -> str:
        """What is said behind a name of which moment it is, if not of now."""
        return f" as of {self._asking.as_of}" if self._asking.as_of else ""

    @property
    def outage(self) -> Outage | None:
        """Since when the server can't be had; None where it answered when it was asked last."""
        return self._asking.outage

    def aliases(self) -> dict[str, str]:
        """Return which version is behind each alias that was asked for, of the first ones."""
        found: dict[str, str] = {}
        for (_, name), answer in self._answers.items():
            child = answer.child
            if isinstance(child, VersionDirectory) and name != child.version.name:
                version = child.version
                place = (version.entity, version.project, version.collection, name)
                found[name_at(*place)] = version.name
                if len(found) >= SHOWN_ALIASES:
                    break
        return found

    async def close(self) -> None:
        """Write what the server said down."""
        await self._kept.close()

    def note_login(self, viewer: Viewer) -> None:
        """Keep who the server says that we are: the root's listing."""
        things = tuple((name, name) for name in viewer.entities if is_name(RootDirectory(), name))
        self._kept.keep(GivenListing(directory="/", things=things, given_at=time.time()))
        self._adopt(ROOT_INODE, things, self._ttl_s, None)

    def note_failure(self, error: RemoteError) -> None:
        """Take the server for lost, and as one that was waited for already."""
        self._asking.note_failure(error)

    def pin(self, place: tuple[str, str, str, str], version: Version) -> None:
        """Have a name (entity, project, collection, alias) be a version as long as this lives."""
        *collection, name = place
        key = (inode_of_node(CollectionDirectory.called(*collection)), name)
        self._answers[key] = Answer(child_of(name, version), math.inf)

    async def look_again(self) -> list[tuple[Inode, str]]:
        """Ask anew what has an answer that may be another by now; return the names that it is of.

        Those are aliases that have moved, or whose version the server can't be asked for, and what
        was not there; each by its directory's number. What is pinned stays.
        """
        # What the catalog has is older, whoever put it there.
        self._started_at = time.time()
        self._listings = {
            inode: listing for inode, listing in self._listings.items() if listing.is_growing
        }
        now = trio.current_time()
        found: list[tuple[Inode, str]] = []
        aliases: dict[tuple[Inode, str], Version] = {}
        for key, answer in list(self._answers.items()):
            if not now < answer.valid_until < math.inf:
                continue
            if answer.child is None:
                found.append(key)
                del self._answers[key]
            elif isinstance(answer.child, VersionDirectory) and not is_version_name(key[1]):
                aliases[key] = answer.child.version
                self._answers[key] = Answer(answer.child, now)
        asked = [
            self._background.spawn(
                partial(self._moved, key, version), name=f"look again at {key[1]}", is_awaited=True
            )
            for key, version in aliases.items()
        ]
        for key, work in zip(aliases, asked, strict=True):
            if await work.result():
                found.append(key)
        return found

    async def _moved(self, key: tuple[Inode, str], version: Version) -> bool:
        """Ask what an alias is; return whether it is another version than it was."""
        place = CollectionDirectory.called(version.entity, version.project, version.collection)
        try:
            child = (await self.child(place, key[1])).child
        except WbfsError as error:
            log.info("can't look again at %s in %s: %s", key[1], path_of(place), error)
            return True
        return not (isinstance(child, VersionDirectory) and child.version.id == version.id)

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

    def _place(self, directory: Listed) -> str:
        """Return the catalog's name of a directory: of another moment it is another one."""
        path = path_of(directory)
        is_past = self._asking.as_of and isinstance(directory, CollectionDirectory)
        return f"{path}/{self._asking.as_of}" if is_past else path

    async def _find(self, directory: Listed, name: str, key: tuple[Inode, str]) -> Answer:
        path = self._place(directory)
        kept = await self._kept.name(path, name)
        if kept is not None:
            left_s = self._left_s(kept.given_at, self._ttl_of(kept.thing))
            if left_s > 0:
                return self._remember(key, child_of(name, kept.thing), left_s)
        known = self._answers.get(key)
        try:
            has_answer = kept is not None or known is not None
            thing = await self._asking.name(directory, name, has_answer=has_answer)
        except RemoteError as error:
            if kept is not None:
                return self._remember(key, child_of(name, kept.thing), self._stale_s)
            if known is not None:
                return self._remember(key, known.child, self._stale_s)
            version = await self._kept.version_called(path, name)
            if version is not None:
                return self._remember(key, child_of(name, version), self._stale_s)
            self._raise_unknown(error, "looked up")
        self._kept.keep(GivenName(directory=path, name=name, thing=thing, given_at=time.time()))
        return self._remember(key, child_of(name, thing), self._ttl_of(thing))

    async def children(self, directory: Listed) -> Listing:
        """Return the names of `directory`, or the first of them while more come. Raises WbfsError.

        Whoever asks meanwhile reads the same listing.
        """
        inode = inode_of_node(directory)
        known = self._listings.get(inode)
        if known is not None and (known.is_growing or trio.current_time() < known.valid_until):
            return known
        return await self._listing_flights.join(
            inode,
            lambda: self._find_children(directory, inode),
            timeout_s=self._timeout_s,
            what=f"list {path_of(directory)}",
        )

    async def _find_children(self, directory: Listed, inode: Inode) -> Listing:
        path = self._place(directory)
        old = self._listings.get(inode)
        listed_at = await self._kept.listed_at(path)
        if listed_at is not None and self._left_s(listed_at, self._ttl_s) > 0:
            kept = await self._kept.listing(path)
            if kept is not None:
                left_s = self._left_s(kept.given_at, self._ttl_s)
                return self._adopt(inode, kept.things, left_s, old)
        has_answer = listed_at is not None or old is not None
        try:
            page = await self._asking.first_page(directory, has_answer=has_answer)
        except RemoteError as error:
            older = await self._older(path, inode, old)
            if older is not None:
                return older
            if isinstance(error, Offline) and (found := await self._kept.known(path)):
                # Nothing else is here.
                return self._adopt(inode, tuple(found.items()), self._stale_s, old)
            self._raise_unknown(error, "listed")
        things = dict(page.items)
        if page.next is None:
            return self._told(path, inode, things, old)
        listing = self._listings[inode] = Listing(
            self._remember_all(inode, things.items(), self._ttl_s),
            trio.current_time() + self._ttl_s,
            more_within_s=self._timeout_s,
        )
        pages = self._asking.further_pages(directory, page.next, has_answer=has_answer)
        self._background.spawn(
            lambda: self._fill(listing, path, inode, things, pages, old), name=f"listing {path}"
        )
        return listing

    async def _fill(
        self,
        listing: Listing,
        path: str,
        inode: Inode,
        things: dict[str, Thing],
        pages: AsyncIterator[Page[tuple[str, Thing]]],
        old: Listing | None,
    ) -> None:
        """Add to a listing, whose first names are `things`, what the further pages hold."""
        with listing.filling(f"list {path}"):
            try:
                async for page in pages:
                    # What is made or deleted meanwhile moves names from page to page.
                    new = {name: thing for name, thing in page.items if name not in things}
                    things |= new
                    children = self._remember_all(inode, new.items(), self._ttl_s)
                    listing.add(children, trio.current_time() + self._ttl_s)
            except RemoteError:
                older = await self._older(path, inode, old)
                if older is None:
                    raise
                left = [child for child in older.children if child[0] not in things]
                listing.add(left, older.valid_until)
            else:
                self._told(path, inode, things, old)
        if self._listings.get(inode) is listing:
            # It failed: who asks next begins anew.
            del self._listings[inode]

    def _told(
        self, path: str, inode: Inode, things: dict[str, Thing], old: Listing | None
    ) -> Listing:
        """Keep all that the server listed, in memory and on disk."""
        given = GivenListing(directory=path, things=tuple(things.items()), given_at=time.time())
        self._kept.keep(given)
        return self._adopt(inode, given.things, self._ttl_s, old)

    async def _older(self, path: str, inode: Inode, old: Listing | None) -> Listing | None:
        """Take a directory's last listing for a while longer; None where there is none."""
        kept = await self._kept.listing(path)
        if kept is not None:
            return self._adopt(inode, kept.things, self._stale_s, old)
        if old is None:
            return None
        # The catalog fails too.
        listing = Listing(old.children, trio.current_time() + self._stale_s)
        self._listings[inode] = listing
        return listing

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
            entity = await self._asking.organization_entity(
                name, member=member, has_answer=kept is not None
            )
        except RemoteError as error:
            if kept is not None and isinstance(kept.thing, str):
                return kept.thing
            self._raise_unknown(error, "looked up")
        self._kept.keep(
            GivenName(directory=ORGANIZATIONS, name=name, thing=entity, given_at=time.time())
        )
        return entity

    def _raise_unknown(self, error: RemoteError, told: str) -> NoReturn:
        """Raise the error of what the server can't be asked for and never said before."""
        if not isinstance(error, Offline):
            raise error
        reason = self._kept.failure or f"it was never {told} before{self.then}"
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
        if len(self._answers) >= self._max_answers:
            self._drop_old(now)
        answer = self._answers[key] = Answer(child, now + for_s)
        return answer

    def _drop_old(self, now: float) -> None:
        """Forget what is past its time; the catalog still has it."""
        self._answers = {k: a for k, a in self._answers.items() if a.valid_until > now}
        self._listings = {
            inode: listing
            for inode, listing in self._listings.items()
            if listing.is_growing or listing.valid_until > now
        }
        # Where most are still good, not for each name again.
        self._max_answers = max(MAX_ANSWERS, 2 * len(self._answers))

    def _remember_all(
        self, inode: Inode, things: Iterable[tuple[str, Thing]], for_s: float
    ) -> list[tuple[str, Child]]:
        """Keep what a directory's names are in memory; return those that are something."""
        children = []
        for name, thing in things:
            child = self._remember((inode, name), child_of(name, thing), for_s).child
            if child is not None:
                children.append((name, child))
        return children

    def _adopt(
        self,
        inode: Inode,
        things: Sequence[tuple[str, Thing]],
        for_s: float,
        old: Listing | None,
    ) -> Listing:
        """Keep a listing in memory, and what its names are; forget which of `old` are gone."""
        if old is not None:
            for name in {name for name, _ in old.children} - {name for name, _ in things}:
                known = self._answers.get((inode, name))
                if known is not None and known.valid_until != math.inf:
                    del self._answers[inode, name]
        children = self._remember_all(inode, sorted(things, key=_order), for_s)
        listing = self._listings[inode] = Listing(children, trio.current_time() + for_s)
        return listing


def _order(item: tuple[str, Thing]) -> tuple[int, int | str]:
    """Versions by number, then the other names."""
    name = item[0]
    return (0, int(name[1:])) if is_version_name(name) else (1, name)

"""Asks the server about directories above the versions: each time with a limit, and by pages.

Whether it can be had at all is noted in the same place for all that a mount asks. Trio thread.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import trio

from wbfs.fetch.work.offload import Kind, Offload
from wbfs.fetch.work.outage import Outage, Reach
from wbfs.fs.above.questions import list_page, look_up
from wbfs.fs.nodes import Listed
from wbfs.model.errors import Offline, RemoteError, RemoteProtocolError, WbfsError
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.api.graphql import Page, PageRequest, QueryRefused
from wbfs.remote.http.transport import Deadline
from wbfs.store.known.catalog import Thing

REFRESH_TIMEOUT_S = 5.0
"""Seconds to wait for a newer answer where an older one can be given."""
FIRST_PAGE_SIZE = 50
"""Names in the first page of a listing: what a program waits for before it sees any."""
PAGE_GROWTH = 4
"""How many times as many names each further page has, up to MAX_PAGE_SIZE."""
MAX_PAGE_SIZE = 500
MAX_PAGES = 10_000
"""Pages of a listing, before it is taken for one without an end."""

T = TypeVar("T")


class Asking:
    """How one mount asks. Where an older answer is at hand (`has_answer`), no question takes long.

    All raise WbfsError.
    """

    def __init__(self, *, api: WandbApi, reach: Reach, offload: Offload, timeout_s: float) -> None:
        self._api = api
        self._reach = reach
        self._offload = offload
        self._timeout_s = timeout_s

    @property
    def as_of(self) -> str:
        """Which moment the answers are of, if not of now."""
        return self._api.as_of

    @property
    def outage(self) -> Outage | None:
        """Since when the server can't be had; None where it answered when it was asked last."""
        return self._reach.outage

    def note_failure(self, error: RemoteError) -> None:
        """Take the server for lost, and as one that was waited for already."""
        if not isinstance(error, Offline):
            self._reach.lost(error, asked_at=-math.inf)

    async def name(self, directory: Listed, name: str, *, has_answer: bool) -> Thing | None:
        """Return what a name is; None for nothing."""
        return await self._ask(
            lambda deadline: look_up(self._api, directory, name, deadline), has_answer=has_answer
        )

    async def organization_entity(self, name: str, *, member: str, has_answer: bool) -> str:
        """Return the entity of an organization; see `WandbApi`."""
        return await self._ask(
            lambda deadline: self._api.organization_entity(name, member=member, deadline=deadline),
            has_answer=has_answer,
        )

    async def first_page(self, directory: Listed, *, has_answer: bool) -> Page[tuple[str, Thing]]:
        """Return the first names of a directory."""
        return await self._page(directory, PageRequest(size=FIRST_PAGE_SIZE), has_answer)

    async def further_pages(
        self, directory: Listed, after: str, *, has_answer: bool
    ) -> AsyncIterator[Page[tuple[str, Thing]]]:
        """Yield the pages after a first one, each with a time limit of its own."""
        wanted = PageRequest(after=after, size=FIRST_PAGE_SIZE * PAGE_GROWTH)
        for _ in range(MAX_PAGES):
            page = await self._page(directory, wanted, has_answer)
            yield page
            if page.next is None:
                return
            size = min(wanted.size * PAGE_GROWTH, MAX_PAGE_SIZE)
            wanted = PageRequest(after=page.next, size=size)
        raise RemoteProtocolError(f"the server's pages have no end: {MAX_PAGES} were read")

    async def _page(
        self, directory: Listed, wanted: PageRequest, has_answer: bool
    ) -> Page[tuple[str, Thing]]:
        return await self._ask(
            lambda deadline: list_page(self._api, directory, wanted, deadline),
            has_answer=has_answer,
        )

    async def _ask(self, ask: Callable[[Deadline], T], *, has_answer: bool) -> T:
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

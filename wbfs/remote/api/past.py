"""W&B's artifacts as they were at a moment, as far as the server tells.

It tells when a version was logged, or linked where it is found by a link; nothing of a version that
was deleted; and of an alias which version it is now, not which it was. Of `latest` alone that can
be told: it goes with each new version, unless somebody moves it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from wbfs.model.entries import Collection, Version
from wbfs.model.errors import NotFound, RemoteProtocolError, UsageError
from wbfs.model.names import name_at
from wbfs.remote.api.answers import artifact_id_of
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.api.graphql import Page, PageRequest
from wbfs.remote.credentials import Credentials
from wbfs.remote.http.transport import Deadline, Transport

log = logging.getLogger(__name__)

LATEST = "latest"
MAX_PAGE_SIZE = 500
HINT = "name a version, or keep aliases by wbfs lock"


class PastApi(WandbApi):
    """The artifacts of one user: of each those versions that were there at a moment."""

    def __init__(self, *, transport: Transport, credentials: Credentials, as_of: datetime) -> None:
        super().__init__(transport=transport, credentials=credentials)
        self.as_of = as_of.astimezone(UTC).isoformat()
        self._as_of = as_of

    def versions(
        self, collection: Collection, wanted: PageRequest, *, deadline: Deadline
    ) -> Page[Version]:
        """Return all versions that a collection had, as one page, with `latest` if that is known.

        Raises NotFound.
        """
        now = self._versions_now(collection, deadline)
        then = [version for version in now if self._was_there(version)]
        try:
            latest = self._latest(now, then)
        except (NotFound, UsageError) as error:
            log.info("no %s in the listing: %s", LATEST, error)
            latest = None
        aliased = (
            replace(version, aliases=(LATEST,) if version is latest else ()) for version in then
        )
        return Page(items=tuple(aliased), next=None)

    def version(
        self, entity: str, project: str, collection: str, alias: str, *, deadline: Deadline
    ) -> Version:
        """Return what `alias` named: `vN`, `latest`, a digest, or an artifact's id.

        Raises NotFound; and UsageError of another alias, and of a `latest` that can't be known.
        """
        if alias == LATEST:
            of = self.collection(entity, project, collection, deadline=deadline)
            now = self._versions_now(of, deadline)
            then = [version for version in now if self._was_there(version)]
            return replace(self._latest(now, then), aliases=(LATEST,))
        found = super().version(entity, project, collection, alias, deadline=deadline)
        name = name_at(entity, project, collection, alias)
        if alias not in (found.name, found.digest) and artifact_id_of(alias) is None:
            raise UsageError(
                f"can't tell what {name} was as of {self.as_of}: the server tells only that it is"
                f" {found.name} now; {HINT}"
            )
        if not self._was_there(found):
            since = _joined_at(found).isoformat()
            raise NotFound(f"there was no {name} as of {self.as_of}: it is there since {since}")
        return replace(found, aliases=())

    def _versions_now(self, collection: Collection, deadline: Deadline) -> list[Version]:
        """Return all versions of a collection, by number. Raises NotFound."""
        found: list[Version] = []
        wanted: PageRequest | None = PageRequest(size=MAX_PAGE_SIZE)
        while wanted is not None:
            page = self._list_versions(collection, wanted, deadline, with_memberships=True)
            found += page.items
            wanted = PageRequest(after=page.next, size=MAX_PAGE_SIZE) if page.next else None
        return sorted(found, key=_number)

    def _was_there(self, version: Version) -> bool:
        if not version.joined_at_ns:
            raise RemoteProtocolError(f"the server doesn't tell when {version.path} was linked")
        return _joined_at(version) <= self._as_of

    def _latest(self, now: Sequence[Version], then: Sequence[Version]) -> Version:
        """Return the `latest` of those that were there. Raises NotFound, UsageError."""
        if not then:
            raise NotFound(f"there was no version as of {self.as_of}")
        newest = then[-1]
        name = name_at(newest.entity, newest.project, newest.collection, LATEST)
        unknown = f"can't tell what {name} was as of {self.as_of}"
        if LATEST not in now[-1].aliases:
            raise UsageError(
                f"{unknown}: it is not the newest version now, so that somebody moves it; {HINT}"
            )
        later = [version for version in now if _number(version) > _number(newest)]
        if later and _number(later[0]) != _number(newest) + 1:
            raise UsageError(
                f"{unknown}: {newest.name} or one between it and {later[0].name} that was deleted;"
                f" {HINT}"
            )
        return newest


def _number(version: Version) -> int:
    return int(version.name[1:])


def _joined_at(version: Version) -> datetime:
    return datetime.fromtimestamp(version.joined_at_ns / 1e9, UTC)

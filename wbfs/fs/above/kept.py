"""The catalog as a mount uses it: read and written in threads, and nothing fails because it does.

What the server says is written a moment later, so that no program waits for the disk, and looking
up a thousand names is not a thousand transactions: a `kill -9` loses about a second. Trio thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import trio

from wbfs.fetch.work.background import Background
from wbfs.fetch.work.offload import Kind, Offload
from wbfs.model.entries import Version
from wbfs.model.errors import StoreError
from wbfs.model.names import is_safe_component
from wbfs.remote.api.answers import artifact_id_of
from wbfs.store.known.catalog import Catalog, GivenListing, GivenName, Thing

log = logging.getLogger(__name__)

WRITE_AFTER_S = 0.5
"""Seconds that answers are gathered before they are written."""

T = TypeVar("T")


class Kept:
    """What one user was told before, in this mount or another."""

    def __init__(self, *, catalog: Catalog, offload: Offload, background: Background) -> None:
        self._catalog = catalog
        self._offload = offload
        self._background = background
        self._pending: list[GivenName | GivenListing] = []
        self._is_writing = False
        self.failure: StoreError | None = None

    async def name(self, directory: str, name: str) -> GivenName | None:
        """Return what a name was last; None where that isn't known."""
        return await self._run(lambda: self._catalog.name(directory, name))

    async def listed_at(self, directory: str) -> float | None:
        """Return when a directory was listed last, in seconds since the epoch."""
        return await self._run(lambda: self._catalog.listed_at(directory))

    async def listing(self, directory: str) -> GivenListing | None:
        """Return a directory's last listing."""
        return await self._run(lambda: self._catalog.listing(directory))

    async def version_called(self, directory: str, name: str) -> Version | None:
        """Return a version that was given by another name; None where none is known.

        What it was called then counts: an alias that has moved since may be wrong.
        """
        artifact_id = artifact_id_of(name)
        for _, thing in await self._run(lambda: self._catalog.known(directory)) or ():
            if isinstance(thing, Version) and (
                name in (thing.name, thing.digest, *thing.aliases) or artifact_id == thing.id
            ):
                return thing
        return None

    async def known(self, directory: str) -> dict[str, Thing]:
        """Return what is known in a directory that was never listed, by the names of a listing."""
        found: dict[str, Thing] = {}
        for given, thing in await self._run(lambda: self._catalog.known(directory)) or ():
            names = (thing.name, *thing.aliases) if isinstance(thing, Version) else (given,)
            for name in names:
                if is_safe_component(name):
                    found.setdefault(name, thing)
        return found

    def keep(self, given: GivenName | GivenListing) -> None:
        """Have an answer written soon."""
        self._pending.append(given)
        if not self._is_writing:
            self._is_writing = True
            self._background.spawn(self._write_soon, name="writing the catalog")

    async def close(self) -> None:
        """Write what isn't written yet."""
        await self._write()

    async def _write_soon(self) -> None:
        try:
            while self._pending:
                await trio.sleep(WRITE_AFTER_S)
                await self._write()
        finally:
            self._is_writing = False

    async def _write(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            # Also when the mount ends meanwhile.
            with trio.CancelScope(shield=True):
                await self._run(lambda: self._catalog.write(pending))

    async def _run(self, work: Callable[[], T]) -> T | None:
        try:
            done = await self._offload.run(Kind.DISK, work)
        except StoreError as error:
            if self.failure is None:
                log.warning("%s; it goes on without what was known before", error)
            self.failure = error
            return None
        except Exception as error:  # noqa: BLE001 - it is noted
            # Nothing of it is worth an operation.
            self._background.defect("use the catalog", error)
            return None
        self.failure = None
        return done

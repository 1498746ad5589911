"""What the mount and the commands that fetch work with: wired up once, undone together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import trio

from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.offload import Kind, Offload, checkpoint
from wbfs.fetch.room import Room
from wbfs.fetch.sources import Sources
from wbfs.fs.names import Names
from wbfs.model.entries import Viewer
from wbfs.model.names import REGISTRY_PREFIX, Source, parse_source
from wbfs.model.settings import SessionSettings
from wbfs.remote.artifacts import WandbApi
from wbfs.remote.credentials import Credentials, load_credentials
from wbfs.remote.references import References
from wbfs.remote.transport import Deadline, Transport
from wbfs.store.blobs import Blobs
from wbfs.store.eviction import Bounds
from wbfs.store.manifests import Manifests

LOGIN_TIMEOUT_S = 8.0
"""Seconds that the server has to say who we are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One login at one server, with one cache directory."""

    credentials: Credentials
    viewer: Viewer
    api: WandbApi
    offload: Offload
    names: Names
    fetcher: Fetcher
    blobs: Blobs
    room: Room

    async def source(self, text: str) -> Source:
        """Read a SOURCE; the user's settings fill in what it leaves out. Raises WbfsError."""
        source = parse_source(
            text,
            default_entity=self.credentials.entity or self.viewer.entity,
            default_project=self.credentials.project,
        )
        if not source.project.startswith(REGISTRY_PREFIX):
            return source
        # A registry's entity may be written as its organization's name, or, as with the SDK, be
        # left out: then the user's own stands in its place.
        named = "" if source.entity in self.viewer.entities else source.entity
        deadline = Deadline.after(LOGIN_TIMEOUT_S)
        entity = await self.offload.run(
            Kind.METADATA,
            lambda: self.api.organization_entity(
                named, member=self.viewer.entity, deadline=deadline
            ),
        )
        return replace(source, entity=entity)


@asynccontextmanager
async def open_session(settings: SessionSettings, nursery: trio.Nursery) -> AsyncIterator[Session]:
    """Log in and wire everything up; what is started runs in `nursery`. Raises WbfsError."""
    credentials = load_credentials()
    transport = Transport.for_credentials(credentials, checkpoint=checkpoint)
    try:
        api = WandbApi(transport=transport, credentials=credentials)
        offload = Offload()
        deadline = Deadline.after(LOGIN_TIMEOUT_S)
        viewer = await offload.run(Kind.METADATA, lambda: api.viewer(deadline=deadline))
        blobs = Blobs(settings.cache_dir)
        room = Room(
            nursery=nursery,
            offload=offload,
            cache_dir=settings.cache_dir,
            bounds=Bounds(limit=settings.cache_size, min_free=settings.min_free),
        )
        fetcher = Fetcher(
            nursery=nursery,
            offload=offload,
            sources=Sources(
                api=api,
                transport=transport,
                references=References(transport),
                manifests=Manifests(settings.cache_dir, urlsplit(credentials.base_url).netloc),
            ),
            blobs=blobs,
            room=room,
            timeout_s=settings.timeout_s,
        )
        names = Names(
            api=api,
            offload=offload,
            nursery=nursery,
            ttl_s=settings.alias_ttl_s,
            timeout_s=settings.timeout_s,
            pin=settings.pin,
        )
        try:
            yield Session(
                credentials=credentials,
                viewer=viewer,
                api=api,
                offload=offload,
                names=names,
                fetcher=fetcher,
                blobs=blobs,
                room=room,
            )
        finally:
            fetcher.close()
    finally:
        transport.close()

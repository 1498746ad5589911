"""What the mount and the commands that fetch work with: wired up once, undone together."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlsplit

from wbfs.fetch.apart.carriers import Carriers
from wbfs.fetch.apart.small_files import Setup
from wbfs.fetch.apart.spares import Spares
from wbfs.fetch.counters import Counters
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.journal import Journal
from wbfs.fetch.resources import Resources
from wbfs.fetch.sources import Sources
from wbfs.fetch.work.background import Background
from wbfs.fetch.work.offload import Kind, Offload, checkpoint
from wbfs.fetch.work.outage import Reach
from wbfs.fetch.writeback import Writeback
from wbfs.fs.above.names import Names
from wbfs.fs.nodes import (
    CollectionDirectory,
    EntityDirectory,
    Listed,
    ProjectDirectory,
    RootDirectory,
    VersionDirectory,
)
from wbfs.model.entries import Project, Version, Viewer
from wbfs.model.errors import AccessDenied, NotFound, RemoteError, StoreError, WbfsError
from wbfs.model.names import REGISTRY_PREFIX, Source, parse_source
from wbfs.model.runs import Run, parse_run
from wbfs.model.settings import SessionSettings
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.api.past import PastApi
from wbfs.remote.credentials import Credentials, NoKey, load_credentials
from wbfs.remote.http.gateway import Gateway
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References
from wbfs.store.bounds.eviction import Bounds
from wbfs.store.bounds.room import Room
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.partial import PartialBlobs
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.folder import prepare_cache
from wbfs.store.known.catalog import Catalog, find_viewer
from wbfs.store.known.manifests import Manifests
from wbfs.store.known.sizes import KnownSizes

log = logging.getLogger(__name__)

LOGIN_TIMEOUT_S = 8.0
"""Seconds that the server has to say who we are, where it said so before; else those in which it is
asked again if it can't be reached."""
PROBE_TIMEOUT_S = 5.0
"""Seconds that a question waits which is only to find out whether the server is back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One login at one server, with one cache directory."""

    credentials: Credentials
    viewer: Viewer
    umask: int
    api: WandbApi
    offload: Offload
    names: Names
    fetcher: Fetcher
    partial: PartialBlobs
    room: Room
    resources: Resources

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
        entity = await self.names.organization_entity(named, member=self.viewer.entity)
        return replace(source, entity=entity)

    def run(self, text: str) -> Run:
        """Read a RUN; the user's settings fill in what it leaves out. Raises NameInvalid."""
        return parse_run(
            text,
            default_entity=self.credentials.entity or self.viewer.entity,
            default_project=self.credentials.project,
        )

    async def version(self, entity: str, project: str, collection: str, alias: str) -> Version:
        """Return a version as the server has it now. Raises WbfsError.

        The way to it is looked up as well, so that a later mount finds it without the server.
        """
        above: tuple[tuple[Listed, str], ...] = (
            (RootDirectory(), entity),
            (EntityDirectory(entity), project),
            (ProjectDirectory(Project(entity=entity, name=project, created_at_ns=0)), collection),
        )
        background = self.resources.background
        noting = [
            background.spawn(partial(self._note, directory, name), name=f"look up {name}")
            for directory, name in above
        ]
        found = (
            await self.names.child(CollectionDirectory.called(entity, project, collection), alias)
        ).child
        for work in noting:
            await work.ended.wait()
        if not isinstance(found, VersionDirectory):
            raise NotFound(
                f"there is no version or alias {alias!r} of {entity}/{project}/{collection}"
                f"{self.names.then}, or you may not see it"
            )
        return found.version

    async def _note(self, directory: Listed, name: str) -> None:
        """Look a name up for the catalog's sake."""
        try:
            await self.names.child(directory, name)
        except WbfsError as error:
            log.info("%s is not noted: %s", name, error)


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are; a failure is why the server itself could not say so."""

    viewer: Viewer
    failure: RemoteError | None


async def _log_in(
    settings: SessionSettings, credentials: Credentials, api: WandbApi, offload: Offload
) -> Login:
    """Ask the server who we are; where it can't be had, it is whoever this login was before.

    Raises WbfsError.
    """
    known = await _find_viewer(settings, credentials, offload)
    if isinstance(known, Viewer):
        deadline = Deadline.after(min(LOGIN_TIMEOUT_S, settings.timeout_s))
    else:
        # Who mistyped the server's address need not wait as long as for one that thinks.
        deadline = Deadline.after(settings.timeout_s, retried_s=LOGIN_TIMEOUT_S)
    try:
        return Login(await offload.run(Kind.METADATA, lambda: api.viewer(deadline=deadline)), None)
    except RemoteError as failure:
        if isinstance(known, Viewer):
            return Login(known, failure)
        # Where it could have been asked, it is the server that matters.
        raise (known if settings.offline else failure) from None


async def _ask_features(settings: SessionSettings, api: WandbApi, offload: Offload) -> None:
    """Ask what the server can do, beside what a program does first."""
    deadline = Deadline.after(settings.timeout_s)
    try:
        await offload.run(Kind.METADATA, lambda: api.ask_features(deadline=deadline))
    except WbfsError as error:
        # Who needs it asks again, and is told.
        log.info("can't ask what the server can do yet: %s", error)


async def _find_viewer(
    settings: SessionSettings, credentials: Credentials, offload: Offload
) -> Viewer | WbfsError:
    """Return who this login was before, or why that isn't known."""
    try:
        login = credentials.read_login().value
    except NoKey:
        login = None
    except AccessDenied as error:
        return error
    try:
        return await offload.run(
            Kind.DISK, lambda: find_viewer(settings.cache_dir, credentials.base_url, login)
        )
    except (AccessDenied, StoreError) as error:
        return error


@asynccontextmanager
async def open_session(
    settings: SessionSettings,
    background: Background,
    *,
    path_prefix: str = "",
    drop_pages: Callable[[frozenset[int]], None] = lambda inodes: None,
    spares: Spares | None = None,
) -> AsyncIterator[Session]:
    """Log in and wire everything up; what is started runs in `background`. Raises WbfsError.

    Nothing is prefetched but files whose path starts with `path_prefix`. `drop_pages` has the
    kernel forget the pages of inodes whose bytes were wrong. `spares` are for what fetches files.
    What is written to the cache is its user's only; `Session.umask` is what other files should
    have.
    """
    umask = os.umask(0o077)
    prepare_cache(settings.cache_dir)
    credentials = load_credentials(key_is_needed=not settings.offline)
    transport = Transport.for_credentials(
        credentials,
        checkpoint=checkpoint,
        offline=settings.offline,
        private_references=settings.private_references,
    )
    try:
        api = (
            WandbApi(transport=transport, credentials=credentials)
            if settings.as_of is None
            else PastApi(transport=transport, credentials=credentials, as_of=settings.as_of)
        )
        offload = Offload()
        login = await _log_in(settings, credentials, api, offload)
        catalog = Catalog(
            settings.cache_dir,
            server=credentials.base_url,
            viewer=login.viewer,
            read_login=lambda: credentials.read_login().value,
        )
        sdk_cache = SdkCache(settings.sdk_cache_dir)
        counters = Counters()
        room = Room(
            settings.cache_dir,
            sdk_cache,
            Bounds(limit=settings.cache_size, min_free=settings.min_free),
            on_wasted=counters.note_wasted,
        )
        blobs = Blobs(
            settings.cache_dir,
            sdk_cache,
            room=room,
            file_mode=0o666 & ~umask,
            checkpoint=checkpoint,
        )
        partial = PartialBlobs(settings.cache_dir, blobs, checkpoint=checkpoint)
        reach = Reach(
            probe=lambda: offload.run(
                Kind.METADATA, lambda: api.viewer(deadline=Deadline.after(PROBE_TIMEOUT_S))
            ),
            background=background,
            timeout_s=settings.timeout_s,
        )
        gateway = Gateway(settings.blob_gateway, transport, is_trusted=settings.trust_gateway)
        sources = Sources(
            api=api,
            reach=reach,
            transport=transport,
            references=References(transport, files_allowed=settings.file_references),
            manifests=Manifests(settings.cache_dir, urlsplit(credentials.base_url).netloc, room),
            background=background,
            manifest_limit=settings.manifest_limit,
            gateway=gateway,
        )
        setup = Setup(
            cache_dir=str(settings.cache_dir),
            cache_size=settings.cache_size,
            min_free=settings.min_free,
            sdk_cache_dir=str(settings.sdk_cache_dir),
            file_mode=0o666 & ~umask,
            server=credentials.base_url,
            extra_headers=credentials.extra_headers,
            proxies=credentials.proxies,
            verify=credentials.verify,
            private_references=settings.private_references,
            file_references=settings.file_references,
            blob_gateway=settings.blob_gateway,
            timeout_s=settings.timeout_s,
        )
        spares = spares or Spares()
        resources = Resources(
            background=background,
            offload=offload,
            sources=sources,
            blobs=blobs,
            partial=partial,
            room=room,
            known_sizes=KnownSizes(settings.cache_dir),
            writeback=Writeback(background=background, offload=offload, blobs=blobs),
            timeout_s=settings.timeout_s,
            setup=setup,
            counters=counters,
            journal=Journal(by_gateway=gateway.has_brought if gateway.url else None),
            carriers=Carriers(background, setup, spares),
            spares=spares,
        )
        fetcher = Fetcher(
            resources,
            verify_always=settings.verify_always,
            path_prefix=path_prefix,
            drop_pages=drop_pages,
        )
        names = Names(
            api=api,
            catalog=catalog,
            reach=reach,
            offload=offload,
            background=background,
            ttl_s=settings.alias_ttl_s,
            timeout_s=settings.timeout_s,
            pin=settings.pin,
        )
        try:
            if login.failure is None:
                names.note_login(login.viewer)
                background.spawn(
                    lambda: _ask_features(settings, api, offload), name="ask what the server can do"
                )
            else:
                names.note_failure(login.failure)
            yield Session(
                credentials=credentials,
                viewer=login.viewer,
                umask=umask,
                api=api,
                offload=offload,
                names=names,
                fetcher=fetcher,
                partial=partial,
                room=room,
                resources=resources,
            )
        finally:
            fetcher.close()
            await fetcher.sizes.close()
            await names.close()
    finally:
        transport.close()
        os.umask(umask)

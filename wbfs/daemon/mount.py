"""One mount's life: everything is wired up here, serves until it is told to stop, and is undone."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pyfuse3
import trio

from wbfs.daemon.kernel import allow_many_reads
from wbfs.daemon.metrics import Metrics
from wbfs.daemon.mountpoint import prepare_mountpoint, refuse_inside
from wbfs.daemon.status import Status
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.offload import Kind, Offload, checkpoint
from wbfs.fetch.room import Room
from wbfs.fetch.sources import Sources
from wbfs.fs.control import Control, ErrorLog
from wbfs.fs.names import Names
from wbfs.fs.operations import Operations, Ownership
from wbfs.fs.tree import Tree, find_mounted
from wbfs.model.entries import Viewer
from wbfs.model.errors import UsageError, WbfsError
from wbfs.model.names import REGISTRY_PREFIX, parse_source
from wbfs.model.settings import MountSettings
from wbfs.remote.artifacts import WandbApi
from wbfs.remote.credentials import Credentials, load_credentials
from wbfs.remote.references import References
from wbfs.remote.transport import Deadline, Transport
from wbfs.store.blobs import Blobs
from wbfs.store.eviction import Bounds
from wbfs.store.manifests import Manifests

log = logging.getLogger(__name__)

LOGIN_TIMEOUT_S = 8.0
"""Seconds that the server has to say who we are before there is a mount."""
GRACE_S = 1.0
"""Seconds that requests have to end after a signal."""
MAX_TASKS = 512
"""Requests that are answered at once; most of them only wait."""


def run_mount(settings: MountSettings, on_ready: Callable[[], None]) -> None:
    """Mount, call `on_ready` when the mount answers, serve until it is taken down.

    Ends on SIGTERM, SIGINT and an unmount from outside. Raises WbfsError where there can be no
    mount; nothing is left behind then.
    """
    faulthandler.register(signal.SIGUSR1)
    os.umask(0o077)
    refuse_inside(settings.cache_dir, settings.mountpoint, "--cache-dir")
    prepare_mountpoint(settings.mountpoint)
    credentials = load_credentials()
    transport = Transport.for_credentials(credentials, checkpoint=checkpoint)
    try:
        trio.run(_run, settings, credentials, transport, on_ready)
    finally:
        transport.close()


async def _run(
    settings: MountSettings,
    credentials: Credentials,
    transport: Transport,
    on_ready: Callable[[], None],
) -> None:
    failure: WbfsError | None = None
    async with trio.open_nursery() as nursery:
        try:
            await _mount(nursery, settings, credentials, transport, on_ready)
        except WbfsError as error:
            # Past the nursery's end, which would wrap it in a group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _mount(
    nursery: trio.Nursery,
    settings: MountSettings,
    credentials: Credentials,
    transport: Transport,
    on_ready: Callable[[], None],
) -> None:
    api = WandbApi(transport=transport, credentials=credentials)
    offload = Offload()
    deadline = Deadline.after(LOGIN_TIMEOUT_S)
    viewer = await offload.run(Kind.METADATA, lambda: api.viewer(deadline=deadline))
    source = parse_source(
        settings.source,
        default_entity=credentials.entity or viewer.entity,
        default_project=credentials.project,
    )
    if source.project.startswith(REGISTRY_PREFIX):
        # A registry's entity may be written as its organization's name, or, as with the SDK, be
        # left out: then the user's own stands in its place.
        named = "" if source.entity in viewer.entities else source.entity
        entity = await offload.run(
            Kind.METADATA,
            lambda: api.organization_entity(named, member=viewer.entity, deadline=deadline),
        )
        source = replace(source, entity=entity)
    names = Names(
        api=api,
        offload=offload,
        nursery=nursery,
        ttl_s=settings.alias_ttl_s,
        timeout_s=settings.timeout_s,
        pin=settings.pin,
    )
    mounted = await find_mounted(names, source)
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
    tree = Tree(names=names, fetcher=fetcher, mounted=mounted)
    # An alias or a folder that isn't there is said now, not by the first `ls`.
    await tree.root()
    operations = _operations(settings, credentials, viewer, tree, fetcher, offload, room)
    try:
        await _serve(nursery, settings, operations, offload, blobs, room, on_ready)
    finally:
        operations.close()
        fetcher.close()


def _operations(
    settings: MountSettings,
    credentials: Credentials,
    viewer: Viewer,
    tree: Tree,
    fetcher: Fetcher,
    offload: Offload,
    room: Room,
) -> Operations:
    requests: Counter[str] = Counter()
    errors = ErrorLog()
    status = Status(
        settings=settings,
        server=credentials.base_url,
        viewer=viewer,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        fetcher=fetcher,
        offload=offload,
        room=room,
        requests=requests,
    )
    metrics = Metrics(fetcher=fetcher, offload=offload, requests=requests)
    control = Control(
        {"status.json": status.render, "metrics": metrics.render, "errors.jsonl": errors.render}
    )
    return Operations(
        tree=tree,
        fetcher=fetcher,
        control=control,
        errors=errors,
        requests=requests,
        ownership=Ownership(uid=settings.uid, gid=settings.gid, umask=settings.umask),
        cache_dir=settings.cache_dir,
    )


async def _serve(
    nursery: trio.Nursery,
    settings: MountSettings,
    operations: Operations,
    offload: Offload,
    blobs: Blobs,
    room: Room,
    on_ready: Callable[[], None],
) -> None:
    mountpoint = str(settings.mountpoint)
    options = {"default_permissions", "fsname=wbfs", "subtype=wbfs", "ro"}
    if settings.allow_other:
        options.add("allow_other")
    try:
        pyfuse3.init(operations, mountpoint, options)
    except RuntimeError as error:
        hint = " (is user_allow_other in /etc/fuse.conf?)" if settings.allow_other else ""
        raise UsageError(f"can't mount on {mountpoint}: {error}{hint}") from error
    try:
        serving = trio.CancelScope()
        nursery.start_soon(_stop_on_signal, serving, name="signals")
        nursery.start_soon(_announce, settings, offload, blobs, room, on_ready, name="announce")
        with serving:
            await pyfuse3.main(max_tasks=MAX_TASKS)
        log.info("%s is unmounted", mountpoint)
    finally:
        pyfuse3.close(unmount=True)


async def _stop_on_signal(serving: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: unmounting", signal.Signals(number).name)
            pyfuse3.terminate()
            # Requests that wait for the network would hold the end up until their deadlines.
            await trio.sleep(GRACE_S)
            serving.cancel()


async def _announce(
    settings: MountSettings,
    offload: Offload,
    blobs: Blobs,
    room: Room,
    on_ready: Callable[[], None],
) -> None:
    """Tell that the mount answers, once it does, and tidy up what others left in the cache."""
    # In a thread, since it is this very loop that answers.
    await offload.run(Kind.DISK, lambda: os.statvfs(settings.mountpoint))
    await offload.run(Kind.DISK, lambda: allow_many_reads(settings.mountpoint))
    log.info("%s is mounted on %s", settings.source or "everything", settings.mountpoint)
    on_ready()
    removed = await offload.run(Kind.DISK, blobs.remove_abandoned)
    if removed:
        log.info("removed %d abandoned downloads from the cache", removed)
    await room.count()

"""One mount's life: everything is wired up here, serves until it is told to stop, and is undone."""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import signal
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pyfuse3
import trio

from wbfs.daemon.ending import Ending, signals_noted
from wbfs.daemon.fuse.kernel import Kernel
from wbfs.daemon.fuse.serving import answer
from wbfs.daemon.lineage.recorder import Recorder, recording
from wbfs.daemon.locks import pin_locked
from wbfs.daemon.metrics import Metrics
from wbfs.daemon.mounts.looking.health import Health, health_of
from wbfs.daemon.mounts.mountpoint import (
    FUSE_CONF,
    prepare_mountpoint,
    refuse_inside,
    users_may_allow_other,
)
from wbfs.daemon.mounts.own import OwnMount
from wbfs.daemon.reserve import Reserve, reserved_descriptors
from wbfs.daemon.session import Session, open_session
from wbfs.daemon.status import Status
from wbfs.daemon.supervisor import Supervisor
from wbfs.fetch.apart.carriers import processors, spares_for
from wbfs.fetch.apart.spares import Spares
from wbfs.fetch.work.background import Background, in_background
from wbfs.fetch.work.offload import Kind
from wbfs.fs.control import Control, ErrorLog, LeftOut
from wbfs.fs.entries import Ownership
from wbfs.fs.operations import Operations
from wbfs.fs.prefix import PathPrefix
from wbfs.fs.tree import Tree, find_mounted
from wbfs.fs.under_way import UnderWay
from wbfs.model.errors import NO_DESCRIPTOR, MountLost, NoFuse, WbfsError, no_descriptor
from wbfs.model.settings import MountSettings
from wbfs.store.known.manifests import remove_abandoned_tables

log = logging.getLogger(__name__)


def run_mount(settings: MountSettings, supervisor: Supervisor) -> None:
    """Mount, tell the supervisor when the mount answers, serve until it is taken down.

    Ends on the signals that end programs, and on an unmount from outside. Raises MountLost where
    it was aborted, and another WbfsError where there can be no mount; nothing is left behind in
    any case. To be called once: signals are ignored afterwards.
    """
    faulthandler.register(signal.SIGUSR1)
    # What was imported stays: to look for garbage in it takes 25 ms, in which nobody is answered.
    gc.freeze()
    try:
        # Before there is anything that they should not have.
        count = 0 if settings.offline else spares_for(processors())
        with Spares(count) as spares, signals_noted() as noted:
            refuse_inside(settings.cache_dir, settings.mountpoint, "--cache-dir")
            if settings.descriptor is None:
                prepare_mountpoint(settings.mountpoint, make=settings.make_dir)
            trio.run(_run, settings, supervisor, noted, spares)
    except OSError as error:
        # It may be found out anywhere.
        if error.errno in NO_DESCRIPTOR:
            raise no_descriptor(f"mount on {settings.mountpoint}") from error
        raise


async def _run(
    settings: MountSettings, supervisor: Supervisor, noted: list[int], spares: Spares
) -> None:
    with trio.CancelScope() as everything:
        ending = Ending(everything)
        async with in_background() as background:
            background.spawn(partial(ending.listen, noted), name="listen for signals")
            background.spawn(partial(supervisor.stopping, ending.told), name="tell of the end")
            kernel = Kernel(background)
            async with open_session(
                settings,
                background,
                path_prefix=settings.path_prefix,
                drop_pages=kernel.drop_pages,
                spares=spares,
            ) as session:
                await _mount(background, settings, session, kernel, ending, supervisor)
    # Nobody is to be woken any more. Trio closes what it is woken by before it says so: a signal
    # between the two would leave a traceback.
    signal.set_wakeup_fd(-1)


async def _mount(
    background: Background,
    settings: MountSettings,
    session: Session,
    kernel: Kernel,
    ending: Ending,
    supervisor: Supervisor,
) -> None:
    await pin_locked(session, settings.locks)
    source = await session.source(settings.source)
    # What was left out is said to whoever asks: to others it may be another project.
    settings = replace(settings, source=str(source))
    mounted = await find_mounted(session.names, source)
    tree = Tree(
        names=session.names,
        fetcher=session.fetcher,
        mounted=mounted,
        prefix=PathPrefix(settings.path_prefix),
    )
    # An alias or a folder that isn't there is said now, not by the first `ls`.
    await tree.root()
    requests: Counter[str] = Counter()
    under_way = UnderWay()
    async with recording(settings, session) as recorder:
        metrics = Metrics(
            session=session, requests=requests, under_way=under_way, recorder=recorder
        )
        operations = _operations(
            settings, session, kernel, tree, requests, under_way, metrics, recorder
        )
        with ExitStack() as stack:
            if settings.metrics_port is not None:
                stack.enter_context(metrics.served(settings.metrics_address, settings.metrics_port))
            reserve = stack.enter_context(reserved_descriptors())
            await _serve(
                background, settings, operations, session, kernel, ending, supervisor, reserve
            )


def _operations(
    settings: MountSettings,
    session: Session,
    kernel: Kernel,
    tree: Tree,
    requests: Counter[str],
    under_way: UnderWay,
    metrics: Metrics,
    recorder: Recorder,
) -> Operations:
    errors = ErrorLog()
    left_out = LeftOut()
    status = Status(
        settings=settings,
        session=session,
        kernel=kernel,
        recorder=recorder,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        requests=requests,
        under_way=under_way,
        left_out=left_out,
        errors=errors,
    )
    control = Control(
        {
            "status.json": status.render,
            "metrics": metrics.render,
            "errors.jsonl": errors.render,
            "fetches.jsonl": status.render_fetches,
        },
        {"refresh": partial(_look_again, tree, kernel)},
    )
    return Operations(
        tree=tree,
        fetcher=session.fetcher,
        control=control,
        left_out=left_out,
        errors=errors,
        requests=requests,
        under_way=under_way,
        background=session.resources.background,
        ownership=Ownership(uid=settings.uid, gid=settings.gid, umask=settings.umask),
        cache_dir=settings.cache_dir,
        on_open=recorder.opened,
    )


async def _look_again(tree: Tree, kernel: Kernel) -> bytes:
    """Have names that the server may have moved looked up again; say how many it has."""
    changed = await tree.look_again()
    kernel.forget(changed.names, root=changed.root)
    return f"{json.dumps({'changed': len(changed.names)})}\n".encode()


async def _serve(
    background: Background,
    settings: MountSettings,
    operations: Operations,
    session: Session,
    kernel: Kernel,
    ending: Ending,
    supervisor: Supervisor,
    reserve: Reserve,
) -> None:
    mountpoint = str(settings.mountpoint)
    options = {"default_permissions", "fsname=wbfs", "subtype=wbfs", "ro"}
    if settings.allow_other:
        options.add("allow_other")
    try:
        pyfuse3.init(operations, mountpoint, options)
    except RuntimeError as error:
        raise _why_not(settings, error) from error
    ending.serving = True
    own = None
    try:
        own = OwnMount(settings, server=session.credentials.base_url)
        announcing = background.spawn(
            partial(_announce, settings, operations, session, kernel, own, supervisor),
            name="announce the mount",
            is_awaited=True,
        )
        background.spawn(partial(ending.unless_begun, announcing), name="wait for the announcement")
        try:
            await answer(background, operations, kernel, ending.told)
        finally:
            # To unmount takes descriptors, and programs may have had all of them.
            operations.close()
            reserve.free()
        is_lost = own.is_there and not ending.told.is_set()
    finally:
        try:
            if own is not None:
                own.take_down()
        finally:
            # It is ours to unmount: pyfuse3 would unmount whatever is at that place by now.
            pyfuse3.close(unmount=own is None and settings.descriptor is None)
            if own is not None:
                own.forget()
    if ending.failure is not None:
        raise ending.failure
    if is_lost:
        raise MountLost(
            f"the mount of {mountpoint} was lost, since its connection to the kernel was aborted:"
            " mount it again"
        )
    if settings.descriptor is not None and not (operations.began.is_set() or ending.told.is_set()):
        raise MountLost(
            f"nothing was asked over {mountpoint}, which was passed: whoever passes it has to have"
            " mounted with it, for this daemon alone, and must not unmount that yet"
        )
    log.info("%s is unmounted", mountpoint)


def _why_not(settings: MountSettings, error: RuntimeError) -> WbfsError:
    """Return what is to be said where libfuse could not mount."""
    text = f"can't mount on {settings.mountpoint}"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as denied:
        if denied.errno in NO_DESCRIPTOR:
            return no_descriptor(f"mount on {settings.mountpoint}")
        return NoFuse(
            f"{text}: /dev/fuse can't be opened ({denied.strerror}); its mode should be 0666, and"
            " in a container it has to be allowed (--device /dev/fuse)"
        )
    if settings.allow_other and os.getuid() != 0 and not users_may_allow_other():
        return NoFuse(f"{text} with --allow-other: add user_allow_other to {FUSE_CONF}")
    return NoFuse(
        f"{text}: {error}; in a container it takes --cap-add SYS_ADMIN beside --device /dev/fuse,"
        " or somebody outside who mounts and passes a descriptor (--fd-socket)"
    )


async def _watch(settings: MountSettings, supervisor: Supervisor) -> None:
    """Tell the supervisor, twice as often as it wants to hear it, that the mount answers."""
    assert supervisor.watchdog_s is not None
    while True:
        # Through the kernel, where it is seen; that this runs is all that is known otherwise.
        if settings.descriptor is not None or Health.SERVES is await trio.to_thread.run_sync(
            health_of, settings.mountpoint, abandon_on_cancel=True
        ):
            supervisor.alive()
        await trio.sleep(supervisor.watchdog_s / 2)


async def _announce(
    settings: MountSettings,
    operations: Operations,
    session: Session,
    kernel: Kernel,
    own: OwnMount,
    supervisor: Supervisor,
) -> None:
    """Tell that the mount answers, once it does, and have the cache tidied up."""
    offload = session.offload
    if settings.descriptor is not None:
        # It may be mounted where this process does not see it.
        await operations.began.wait()
        if own.device is None:
            await offload.run(Kind.DISK, own.find)
    else:
        try:
            # In a thread, since it is this very loop that answers.
            await offload.run(Kind.DISK, lambda: os.statvfs(settings.mountpoint))
        except OSError as error:
            log.info("%s ended before it answered: %s", settings.mountpoint, error.strerror)
            return
    if own.device is not None:
        await kernel.set_up(own.device)
    what = f"{settings.source or 'everything'} is mounted on {settings.mountpoint}"
    log.info("%s", what)
    supervisor.ready(what)
    background = session.resources.background
    if supervisor.watchdog_s is not None:
        background.spawn(partial(_watch, settings, supervisor), name="tell that it answers")
    background.spawn(partial(_tidy_up, settings, session), name="tidy up the cache")


async def _tidy_up(settings: MountSettings, session: Session) -> None:
    """Remove what others left in the cache, and count the rest."""
    offload = session.offload
    removed = await offload.run(Kind.DISK, session.partial.remove_abandoned)
    if removed:
        log.info("removed %d abandoned downloads from the cache", removed)
    await offload.run(Kind.DISK, partial(remove_abandoned_tables, settings.cache_dir))
    await offload.run(Kind.DISK, session.room.count)

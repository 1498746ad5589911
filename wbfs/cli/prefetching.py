"""One `wbfs prefetch`: what is meant, in front or behind, and what is said at the end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from wbfs.cli.echo import echo
from wbfs.cli.progress import Lines, Progress, progress
from wbfs.cli.running import Ending, keep_bounds, log_to, run_session, say_failures, show, tidy_up
from wbfs.cli.sizes import show_size
from wbfs.daemon.background import run_in_background
from wbfs.daemon.mounted import MountedCache, MountedPath, look_at
from wbfs.daemon.session import Session
from wbfs.fetch.background import Background
from wbfs.fetch.bulk.filling import Filling, Selection
from wbfs.fetch.offload import Kind
from wbfs.model.entries import Version
from wbfs.model.errors import UsageError
from wbfs.model.settings import SessionSettings
from wbfs.remote.credentials import load_credentials
from wbfs.store.room import Shortage

log = logging.getLogger(__name__)

COUNT_TIMEOUT_S = 900.0
"""Seconds that a prefetch in the background has to count what there is to fetch."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched: paths below mounts, which have all the same cache, and names."""

    places: tuple[MountedPath | str, ...]
    cache: MountedCache | None


@dataclass(slots=True)
class _Ending(Ending):
    """How it ended: by a signal, with an error, or with what was fetched."""

    filling: Filling | None = None


class _Logged(Lines):
    """Lines in the log, for what runs in the background."""

    every_s = 30.0

    def say(self, text: str) -> None:
        """Log it."""
        log.info("%s", text)


def look_at_all(paths: Sequence[str]) -> Wanted:
    """Tell paths below mounts from names. Raises UsageError."""
    places: list[MountedPath | str] = []
    caches: set[MountedCache] = set()
    for path in paths:
        found = look_at(path)
        if found is not None:
            caches.add(found.cache)
        elif os.path.lexists(path):
            raise UsageError(f"{path} is not below a mount of wbfs: see findmnt -t fuse.wbfs")
        elif ":" not in path:
            raise UsageError(
                f"{path} is neither a path below a mount of wbfs nor a name like"
                " entity/project/artifact:alias/folder: check the spelling, and that it is mounted"
            )
        places.append(found or path)
    if len(caches) > 1:
        raise UsageError(
            "the paths are on mounts with different caches, servers or limits: give those of one"
            " mount at a time"
        )
    cache = next(iter(caches), None)
    if cache is not None:
        server = load_credentials(key_is_needed=False).base_url
        if server != cache.server:
            raise UsageError(
                f"the mount shows {cache.server}, but your W&B settings name {server}: set"
                f" WANDB_BASE_URL={cache.server}"
            )
    return Wanted(tuple(places), cache)


def run_in_front(settings: SessionSettings, wanted: Wanted) -> int:
    """Fetch and return the exit code. Raises WbfsError where nothing could be begun."""
    shown = progress()
    log_to(shown)
    return _run(settings, wanted, shown, on_counted=lambda filling: None)


def run_behind(settings: SessionSettings, wanted: Wanted, log_file: Path) -> None:
    """Fetch in the background; return once it is known what. Raises WbfsError."""

    def run(on_ready: Callable[[], None]) -> None:
        def on_counted(filling: Filling) -> None:
            what = f"{filling.tally.to_fetch:,} files, {show_size(filling.tally.to_fetch_bytes)}"
            where = f"in the background, as process {os.getpid()}; its log is {log_file}"
            echo(f"wbfs: fetching {what} {where}", err=True)
            on_ready()

        _run(settings, wanted, _Logged(), on_counted=on_counted)

    run_in_background(run, what="the prefetch", log_file=log_file, timeout_s=COUNT_TIMEOUT_S)


def _run(
    settings: SessionSettings,
    wanted: Wanted,
    shown: Progress,
    *,
    on_counted: Callable[[Filling], None],
) -> int:
    began = time.monotonic()
    ending = _Ending()

    async def work(background: Background, session: Session) -> None:
        selections = await _find(wanted, session)
        ending.filling = filling = Filling(
            fetcher=session.fetcher, resources=session.resources, selections=selections
        )
        background.spawn(lambda: show(filling, shown), name="show how far it is")
        shortage = await filling.count()
        if shortage is not None:
            raise _too_large(shortage, settings)
        on_counted(filling)
        background.spawn(lambda: tidy_up(session), name="tidy up the cache")
        await filling.run()
        await session.offload.run(
            Kind.DISK, lambda: keep_bounds(settings, session, filling.fetched_bytes)
        )

    try:
        trio.run(run_session, settings, work, ending)
    finally:
        shown.close()
    if ending.failure is not None:
        raise ending.failure
    if ending.filling is not None:
        _summarize(ending.filling, shown, time.monotonic() - began)
    if ending.signal is not None:
        shown.say("interrupted; the same command goes on from here")
        return 128 + ending.signal
    assert ending.filling is not None
    return 1 if ending.filling.tally.failed or ending.filling.gave_up else 0


async def _find(wanted: Wanted, session: Session) -> list[Selection]:
    """Look the versions up. Raises WbfsError."""
    versions: dict[tuple[str, str, str, str], Version] = {}

    async def look_up(entity: str, project: str, collection: str, alias: str) -> Version:
        place = (entity, project, collection, alias)
        if place not in versions:
            versions[place] = await session.version(*place)
        return versions[place]

    selections = []
    for place in wanted.places:
        if isinstance(place, str):
            source = await session.source(place)
            version = await look_up(source.entity, source.project, source.collection, source.alias)
            selections.append(Selection(version, source.folder))
            continue
        version = await look_up(place.entity, place.project, place.collection, place.name)
        if version.id != place.artifact_id:
            raise UsageError(
                f"the server has another {version.path} than the mount: the artifact was deleted"
                " and logged again; mount it again"
            )
        selections.append(Selection(version, place.path, place.path_prefix))
    return selections


def _too_large(shortage: Shortage, settings: SessionSettings) -> UsageError:
    needed, allowed = show_size(shortage.needed), show_size(shortage.allowed)
    if shortage.is_of_disk:
        return UsageError(
            f"it takes {needed} more, and the disk of {settings.cache_dir} has room for {allowed},"
            f" with {show_size(settings.min_free)} left free: free space, use a cache on another"
            " disk, or name a folder"
        )
    limit = show_size(settings.cache_size or 0)
    return UsageError(
        f"it takes {needed}, and of a cache of {limit} it may take {allowed}: raise --cache-size,"
        " the mount's where it is mounted, or name a folder"
    )


def _summarize(filling: Filling, shown: Progress, seconds: float) -> None:
    tally = filling.tally
    say_failures(filling, shown)
    if filling.gave_up is not None:
        left = tally.files - tally.done
        shown.say(f"gave up, and did not try {left:,} files: {filling.gave_up}")
    if tally.is_counted and not tally.files:
        shown.say("there is no file")
        return
    parts = [f"{tally.fetched:,} fetched"]
    if tally.here:
        parts.append(f"{tally.here:,} were here already")
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    shown.say(
        f"{tally.files:,} files: {', '.join(parts)};"
        f" {show_size(filling.fetched_bytes)} in {seconds:.1f} s"
    )

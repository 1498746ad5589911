"""What commands have in common that fetch: signals, what is shown meanwhile, the cache's bounds."""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from wbfs.cli.progress import Progress, SayHandler, Shown
from wbfs.daemon.session import Session, open_session
from wbfs.fetch.background import Background, in_background
from wbfs.fetch.bulk.many import FAILURES_NAMED, ManyFiles
from wbfs.fetch.offload import Kind
from wbfs.model.errors import WbfsError
from wbfs.model.settings import SessionSettings
from wbfs.store.eviction import excess, prune
from wbfs.store.sdk_cache import SdkCache


@dataclass(slots=True)
class Ending:
    """How it ended before its time: by a signal, or with an error."""

    signal: int | None = None
    failure: WbfsError | None = None


def log_to(shown: Progress) -> None:
    """Have warnings said among what is shown."""
    logging.basicConfig(handlers=[SayHandler(shown)], level=logging.WARNING, format="%(message)s")


async def run_session(
    settings: SessionSettings,
    work: Callable[[Background, Session], Awaitable[None]],
    ending: Ending,
) -> None:
    """Open a session and do the work; `ending` is told of a signal, or of an error, that ends it.

    What the work leaves running in the background ends with it.
    """
    async with in_background() as background:
        with trio.CancelScope() as scope:
            background.spawn(partial(_end_on_signal, scope, ending), name="signals")
            try:
                async with open_session(settings, background) as session:
                    await work(background, session)
            except WbfsError as error:
                ending.failure = error


async def _end_on_signal(scope: trio.CancelScope, ending: Ending) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            ending.signal = number
            scope.cancel()


async def show(run: Shown, shown: Progress) -> None:
    """Show how far it is, until cancelled."""
    while True:
        shown.show(run)
        await trio.sleep(shown.every_s)


def say_failures(run: ManyFiles, shown: Progress) -> None:
    """Say of the files that failed why, as far as that is kept in words."""
    tally = run.tally
    for text in tally.errors:
        shown.say(text)
    if tally.failed > FAILURES_NAMED:
        shown.say(f"and {tally.failed - len(tally.errors):,} more")


async def tidy_up(session: Session) -> None:
    """Remove what others left in the cache, and count it, so that it is kept within its bounds."""
    await session.offload.run(Kind.DISK, session.partial.remove_abandoned)
    await session.offload.run(Kind.DISK, session.room.count)


def keep_bounds(settings: SessionSettings, session: Session, fetched_bytes: int) -> None:
    """Prune the cache if it may be too large: a short run ends before that is noticed."""
    bounds = session.room.bounds
    if not fetched_bytes:
        return
    if bounds.limit is not None or excess(settings.cache_dir, 0, bounds):
        prune(settings.cache_dir, bounds, SdkCache(settings.sdk_cache_dir))

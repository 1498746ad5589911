"""Work of commands with a session, until it is done, fails or a signal ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from wbfs.daemon.ending import heeded_signals
from wbfs.daemon.session import Session, open_session
from wbfs.fetch.apart.spares import Spares
from wbfs.fetch.work.background import Background, in_background
from wbfs.model.errors import WbfsError
from wbfs.model.settings import SessionSettings


@dataclass(slots=True)
class Ended:
    """How work ended: by a signal, with an error, or by itself."""

    signal: int | None = None
    failure: WbfsError | None = None


def run_in_session(
    settings: SessionSettings,
    work: Callable[[Session, Background], Awaitable[None]],
    spares: Spares | None = None,
) -> Ended:
    """Log in, do the work, and return how it ended; `spares` are for what fetches files."""
    ended = Ended()
    trio.run(_run, settings, work, ended, spares)
    return ended


async def _run(
    settings: SessionSettings,
    work: Callable[[Session, Background], Awaitable[None]],
    ended: Ended,
    spares: Spares | None,
) -> None:
    async with in_background() as background:
        with trio.CancelScope() as scope:
            background.spawn(partial(_end_on_signal, scope, ended), name="signals")
            try:
                async with open_session(settings, background, spares=spares) as session:
                    await work(session, background)
            except WbfsError as error:
                ended.failure = error


async def _end_on_signal(scope: trio.CancelScope, ended: Ended) -> None:
    with trio.open_signal_receiver(*heeded_signals()) as signals:
        async for number in signals:
            ended.signal = number
            scope.cancel()

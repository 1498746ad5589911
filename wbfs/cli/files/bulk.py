"""One run of a command that gets many files: session, signals, what is shown, what is said."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from wbfs.cli.words.progress import Progress, SayHandler, progress
from wbfs.cli.words.sizes import show_size
from wbfs.daemon.ending import heeded_signals
from wbfs.daemon.session import Session, open_session
from wbfs.fetch.bulk.pipeline import Pipeline
from wbfs.fetch.bulk.tally import FAILURES_NAMED, Tally
from wbfs.fetch.work.background import Background, in_background
from wbfs.fetch.work.offload import Kind
from wbfs.model.errors import WbfsError
from wbfs.model.settings import SessionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a command says of the files that it got, that were right, and where there are none."""

    got: str
    right: str
    none: str


class Order(Protocol):
    """What a command was told to get."""

    words: Words

    async def pipeline(self, session: Session) -> Pipeline:
        """Look up what is meant, and return what gets it. Raises WbfsError."""

    async def begin(self, session: Session, pipeline: Pipeline) -> None:
        """Do what is done before any file is fetched. Raises WbfsError where none is to be."""


@dataclass(slots=True)
class _Ending:
    """How it ended: by a signal, with an error, or with what was got."""

    tally: Tally | None = None
    signal: int | None = None
    failure: WbfsError | None = None


def get_in_front(settings: SessionSettings, order: Order) -> int:
    """Do what `get_all` does, with the error output for all that is shown, warnings too."""
    shown = progress()
    logging.basicConfig(handlers=[SayHandler(shown)], level=logging.WARNING)
    return get_all(settings, order, shown)


def get_all(settings: SessionSettings, order: Order, shown: Progress) -> int:
    """Get what is ordered, and return the exit code. Raises WbfsError where it can't be had."""
    began = time.monotonic()
    ending = _Ending()
    try:
        trio.run(_run, settings, order, shown, ending)
    finally:
        shown.close()
    if ending.failure is not None:
        raise ending.failure
    if ending.tally is not None:
        _summarize(ending.tally, order.words, shown, time.monotonic() - began)
    if ending.signal is not None:
        shown.say("interrupted; the same command goes on from here")
        return 128 + ending.signal
    return 0 if ending.tally is not None and ending.tally.is_complete else 1


async def _run(settings: SessionSettings, order: Order, shown: Progress, ending: _Ending) -> None:
    async with in_background() as background:
        with trio.CancelScope() as scope:
            background.spawn(partial(_end_on_signal, scope, ending), name="signals")
            try:
                async with open_session(settings, background) as session:
                    await _get(order, shown, ending, background, session)
            except WbfsError as error:
                ending.failure = error


async def _end_on_signal(scope: trio.CancelScope, ending: _Ending) -> None:
    with trio.open_signal_receiver(*heeded_signals()) as signals:
        async for number in signals:
            ending.signal = number
            scope.cancel()


async def _get(
    order: Order,
    shown: Progress,
    ending: _Ending,
    background: Background,
    session: Session,
) -> None:
    pipeline = await order.pipeline(session)
    ending.tally = pipeline.tally
    background.spawn(partial(_show, pipeline.tally, shown), name="show how far it is")
    await order.begin(session, pipeline)
    background.spawn(partial(_tidy_up, session), name="tidy up the cache")
    await pipeline.run()


async def _show(tally: Tally, shown: Progress) -> None:
    while True:
        shown.show(tally)
        await trio.sleep(shown.every_s)


async def _tidy_up(session: Session) -> None:
    """Remove what others left in the cache, and count it, so that it is kept within its bounds."""
    await session.offload.run(Kind.DISK, session.partial.remove_abandoned)
    await session.offload.run(Kind.DISK, session.room.count)


def _summarize(tally: Tally, words: Words, shown: Progress, seconds: float) -> None:
    for text in tally.errors:
        shown.say(text)
    if tally.failed > FAILURES_NAMED:
        shown.say(f"and {tally.failed - len(tally.errors):,} more")
    if tally.gave_up is not None:
        left = f"{tally.files - tally.done:,}" if tally.is_counted else "the other"
        shown.say(f"gave up, and did not try {left} files: {tally.gave_up}")
    if tally.is_counted and not tally.files:
        shown.say(words.none)
        return
    parts = [f"{tally.got:,} {words.got}"]
    if tally.right:
        parts.append(f"{tally.right:,} {words.right}")
    if tally.missing:
        parts.append(f"{tally.missing:,} are missing references")
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    if tally.defects:
        parts.append(f"{tally.defects:,} of them by a defect of wbfs: please report it")
    of = f" of {tally.files:,}" if tally.is_counted and tally.done < tally.files else ""
    shown.say(
        f"{tally.done:,}{of} files: {', '.join(parts)};"
        f" {show_size(tally.fetched_bytes)} fetched in {seconds:.1f} s"
    )

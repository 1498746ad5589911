"""One run of a command that gets many files: session, signals, what is shown, what is said."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from wbfs.cli.in_session import run_in_session
from wbfs.cli.words.progress import Progress, SayHandler, progress, show_all_along
from wbfs.cli.words.sizes import show_size
from wbfs.daemon.session import Session
from wbfs.fetch.apart.carriers import processors, spares_for
from wbfs.fetch.apart.spares import Spares
from wbfs.fetch.bulk.pipeline import Pipeline
from wbfs.fetch.bulk.tally import FAILURES_NAMED, Tally
from wbfs.fetch.work.background import Background
from wbfs.fetch.work.offload import Kind
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


def get_in_front(settings: SessionSettings, order: Order) -> int:
    """Do what `get_all` does, with the error output for all that is shown, warnings too."""
    shown = progress()
    logging.basicConfig(handlers=[SayHandler(shown)], level=logging.WARNING)
    return get_all(settings, order, shown)


def get_all(settings: SessionSettings, order: Order, shown: Progress) -> int:
    """Get what is ordered, and return the exit code. Raises WbfsError where it can't be had."""
    began = time.monotonic()
    tally: Tally | None = None

    async def get(session: Session, background: Background) -> None:
        nonlocal tally
        pipeline = await order.pipeline(session)
        tally = pipeline.tally
        background.spawn(partial(show_all_along, tally, shown), name="show how far it is")
        await order.begin(session, pipeline)
        background.spawn(partial(_tidy_up, session), name="tidy up the cache")
        await pipeline.run()

    try:
        with Spares(spares_for(processors())) as spares:
            ended = run_in_session(settings, get, spares)
    finally:
        shown.close()
    if ended.failure is not None:
        raise ended.failure
    if tally is not None:
        _summarize(tally, order.words, shown, time.monotonic() - began)
    if ended.signal is not None:
        shown.say("interrupted; the same command goes on from here")
        return 128 + ended.signal
    return 0 if tally is not None and tally.is_complete else 1


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

"""Answering the kernel, up to the last request. Trio thread.

pyfuse3's session is not ended by its `terminate`, which crashes where there is no session any more
and leaves what comes after it without an answer. What waits for an answer keeps pages locked, and a
notice to the kernel that waits for those would keep this process, and the connection, for ever.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

import pyfuse3
import trio

from wbfs.daemon.fuse.in_a_row import take_requests_in_a_row
from wbfs.daemon.fuse.kernel import MAX_BACKGROUND
from wbfs.fetch.work.background import Background

log = logging.getLogger(__name__)

GRACE_S = 1.0
"""Seconds that requests have to end after a signal."""
NOTICES_END_TIMEOUT_S = 5.0
"""Seconds that notices have to end once all that they wait for is answered."""
MAX_TASKS = MAX_BACKGROUND + 512
"""Requests that are answered at once, more than reads alone can be; most of them only wait."""


class Refusing(Protocol):
    """Operations, as far as their end is concerned."""

    async def refuse(self) -> None:
        """Fail every request from now on, and return when those under way have ended."""


class Noticing(Protocol):
    """What sends the kernel notices."""

    async def end_notices(self) -> None:
        """Send none any more, and return when those under way have ended."""


async def answer(
    background: Background, operations: Refusing, notices: Noticing, told: trio.Event
) -> None:
    """Answer the kernel until the mount is gone, or it is told to end.

    The session may be closed then: nobody uses it any more.
    """
    take_requests_in_a_row()
    answering = trio.CancelScope()
    stop = background.spawn(partial(_stop, operations, told, answering), name="stop answering")
    try:
        with answering:
            await _answer_all()
    finally:
        stop.cancel()
        with trio.move_on_after(NOTICES_END_TIMEOUT_S, shield=True) as waiting:
            last = background.spawn(_answer_all, name="answer the last requests")
            await operations.refuse()
            await notices.end_notices()
            last.cancel()
            await last.ended.wait()
        if waiting.cancelled_caught:
            log.error("a notice to the kernel has not ended within %s s", NOTICES_END_TIMEOUT_S)


async def _stop(operations: Refusing, told: trio.Event, answering: trio.CancelScope) -> None:
    await told.wait()
    # Requests that wait for the network would hold the end up until their deadlines.
    with trio.move_on_after(GRACE_S):
        await operations.refuse()
    answering.cancel()


async def _answer_all() -> None:
    """Answer requests until the mount is gone."""
    try:
        await pyfuse3.main(max_tasks=MAX_TASKS)
    except* OSError as errors:
        log.error("the kernel's requests can't be read: %s", errors.exceptions[0])

"""What a mount has to do with runs, on the trio thread: hands over what was opened, and counts.

`opened` is called for every file that is opened, and does no more than look into a set; four times
a second, for each thread and version, it takes down which process that is (30 us), since a
short-lived one is gone a moment later. All else is done by two tasks, each with a worker thread of
its own.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from wbfs.daemon.lineage.finder import Finder, Opened
from wbfs.daemon.lineage.readers import Readers, kin_of
from wbfs.daemon.lineage.sender import Sender
from wbfs.daemon.session import Session
from wbfs.fetch.work.background import Background, Work
from wbfs.fetch.work.offload import Kind, Offload
from wbfs.model.entries import Version
from wbfs.model.runs import Run, Use
from wbfs.model.settings import AUTO_RUN, MountSettings
from wbfs.store.known.uses import Uses

log = logging.getLogger(__name__)

QUEUED = 4096
"""What may wait to be looked at; more is dropped and counted."""
AGAIN_S = 0.25
"""Seconds after which a thread that opens the same version is looked at again: it may be in
another run, or another thread, by then. The SDK and a server take as long to end a run and begin
another; and a look may take 4 ms of a mount that has all to do, since threads share one lock."""
BATCH_S = 0.02
"""Seconds between two looks: programs that are started one after another have the same parents."""
END_TIMEOUT_S = 2.0
"""Seconds that the server is told of what is pending after the mount is gone."""


class Recorder:
    """Has what is read be the input of a run, or of each reader's own."""

    def __init__(
        self,
        *,
        run: Run | None,
        finder: Finder | None,
        sender: Sender,
        offload: Offload,
        background: Background,
    ) -> None:
        """`run` has all that is read as its inputs; without one, `finder` finds each reader's.

        With neither, what is pending from before is sent.
        """
        self._run = run
        self._finder = finder
        self._sender = sender
        self._offload = offload
        self._background = background
        self._uid = os.getuid()
        # What needs no look: by thread, until a moment of the monotonic clock, or for good.
        self._seen: set[tuple[int, str]] = set()
        self._seen_until = 0.0
        self._noted: set[tuple[Run | str, str]] = set()
        self._queue, self._queued = trio.open_memory_channel[Opened](QUEUED)
        self._dropped = 0
        self._is_blind = False
        self._ends = False
        self._wake = trio.Event()
        self._finding: Work[None] | None = None
        self._sending: Work[None] | None = None

    def start(self) -> None:
        """Start what goes on in the background; not needed where nothing is ever to be sent."""
        if self._run is not None or self._finder is not None:
            self._finding = self._background.spawn(self._find_on, name="find readers' runs")
        self._sending = self._background.spawn(self._send_on, name="record inputs of runs")

    def opened(self, thread: int, uid: int, version: Version) -> None:
        """Note that a thread, 0 for one that can't be seen, has opened a file of a version."""
        if self._finding is None:
            return
        if self._run is not None:
            key = (0, version.id)
        else:
            if uid != self._uid or self._is_unseen(thread):
                return
            key = (thread, version.id)
            now = time.monotonic()
            if now > self._seen_until:
                self._seen.clear()
                self._seen_until = now + AGAIN_S
        if key in self._seen:
            return
        kin = kin_of(thread) if self._run is None else ()
        if self._run is None and not kin:
            return
        try:
            self._queue.send_nowait(Opened(kin, version.id, version.path))
        except trio.WouldBlock:
            self._dropped += 1
        else:
            self._seen.add(key)

    def _is_unseen(self, thread: int) -> bool:
        if thread == 0 and not self._is_blind:
            self._is_blind = True
            log.warning(
                "a program in another PID namespace reads, and can't be seen: its run has no inputs"
                " recorded; mount with --run ENTITY/PROJECT/RUN for it"
            )
        return thread == 0

    async def close(self) -> None:
        """Look and send for the last time, for a while; what is left then stays pending."""
        with trio.move_on_after(END_TIMEOUT_S, shield=True) as in_time:
            self._ends = True
            self._queue.close()
            if self._finding is not None:
                await self._finding.ended.wait()
            self._wake.set()
            if self._sending is not None:
                await self._sending.ended.wait()
                self._sender.close()
        if in_time.cancelled_caught:
            with trio.move_on_after(END_TIMEOUT_S, shield=True):
                await self._offload.run(Kind.DISK, self._sender.leave_to_others)

    def report(self) -> dict[str, Any]:
        """Return what became of what was used, for status.json."""
        finder = self._finder
        run = self._run.path if self._run is not None else AUTO_RUN if finder is not None else None
        return {
            "run": run,
            "recorded": self._sender.recorded,
            "pending": self._sender.pending,
            "failed": self._sender.failed,
            "dropped": self._dropped + (finder.dropped if finder is not None else 0),
        }

    async def _find_on(self) -> None:
        finder = self._finder
        while not self._ends:
            opened: list[Opened] = []
            due_in_s = finder.due_in_s if finder is not None else None
            with trio.move_on_after(float("inf") if due_in_s is None else due_in_s):
                try:
                    opened.append(await self._queued.receive())
                except trio.EndOfChannel:
                    break
            opened += self._more()
            await self._note(await self._look(opened, at_last=False))
            await trio.sleep(BATCH_S)
        await self._note(await self._look(self._more(), at_last=True))

    def _more(self) -> list[Opened]:
        """Return what else is queued."""
        opened = []
        try:
            while True:
                opened.append(self._queued.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return opened

    async def _look(self, opened: list[Opened], *, at_last: bool) -> list[Use]:
        run, finder = self._run, self._finder
        if run is not None:
            return [
                Use(run=run, artifact_id=one.artifact_id, version=one.version) for one in opened
            ]
        assert finder is not None
        return await self._offload.run(Kind.READERS, partial(finder.find, opened, at_last=at_last))

    async def _note(self, uses: list[Use]) -> None:
        """Have uses on disk, and the server told."""
        new = {key: use for use in uses if (key := (use.run, use.artifact_id)) not in self._noted}
        if new:
            self._noted |= new.keys()
            await self._offload.run(Kind.DISK, partial(self._sender.add, [*new.values()]))
            self._wake.set()

    async def _send_on(self) -> None:
        while True:
            self._wake = trio.Event()
            at_last = self._ends and (self._finding is None or self._finding.ended.is_set())
            wait_s = await self._offload.run(
                Kind.LINEAGE, partial(self._sender.send, at_once=at_last)
            )
            if at_last:
                return
            with trio.move_on_after(float("inf") if wait_s is None else wait_s):
                await self._wake.wait()


@asynccontextmanager
async def recording(settings: MountSettings, session: Session) -> AsyncIterator[Recorder]:
    """Yield what records what is read; afterwards the server is told for the last time.

    Raises NameInvalid for what is no run.
    """
    credentials, viewer = session.credentials, session.viewer
    run, finder = None, None
    if settings.run == AUTO_RUN:
        finder = Finder(partial(Readers, server=credentials.base_url, default_entity=viewer.entity))
    elif settings.run:
        run = session.run(settings.run)
    uses = Uses(settings.cache_dir, server=credentials.base_url, viewer=viewer)
    recorder = Recorder(
        run=run,
        finder=finder,
        sender=Sender(uses, session.api.runs, default_entity=viewer.entity),
        offload=session.offload,
        background=session.resources.background,
    )
    if settings.run or uses.is_there:
        recorder.start()
    try:
        yield recorder
    finally:
        await recorder.close()

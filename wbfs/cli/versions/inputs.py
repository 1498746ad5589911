"""What `wbfs use` does: look versions up, and tell the server that they are inputs of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from wbfs.cli.files.orders import find_selections
from wbfs.daemon.lineage.readers import Readers, kin_of
from wbfs.daemon.lineage.sender import Sender
from wbfs.daemon.mounts.paths import MountedPath
from wbfs.daemon.session import Session, open_session
from wbfs.fetch.work.background import in_background
from wbfs.fetch.work.offload import Kind, checkpoint
from wbfs.model.errors import UsageError, WbfsError
from wbfs.model.runs import Run, Use
from wbfs.model.settings import AUTO_RUN, SessionSettings
from wbfs.remote.http.transport import Deadline
from wbfs.store.known.uses import Uses

LOG_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A use that was to be recorded, and why it was not."""

    use: Use
    error: WbfsError | None

    @property
    def run(self) -> str:
        """The run, as far as it is known."""
        return self.use.run if isinstance(self.use.run, str) else self.use.run.path


def record(
    settings: SessionSettings,
    places: Sequence[MountedPath | str],
    run: str,
    *,
    send_all: bool,
) -> list[Recorded]:
    """Record what is at `places` as inputs of a run; with `send_all` what waits as well.

    Raises WbfsError where it can't be told what is meant.
    """
    return trio.run(partial(_record, settings, places, run, send_all=send_all))


async def _record(
    settings: SessionSettings,
    places: Sequence[MountedPath | str],
    run: str,
    *,
    send_all: bool,
) -> list[Recorded]:
    async with in_background() as background, open_session(settings, background) as session:
        uses = await _uses(session, places, run) if places else []
        viewer = session.viewer
        kept = Uses(settings.cache_dir, server=session.credentials.base_url, viewer=viewer)
        sender = Sender(kept, session.api.runs, default_entity=viewer.entity)
        deadline = Deadline.after(settings.timeout_s)
        return await session.offload.run(
            Kind.LINEAGE, lambda: _send(sender, uses, deadline, send_all=send_all)
        )


async def _uses(session: Session, places: Sequence[MountedPath | str], text: str) -> list[Use]:
    runs = await session.offload.run(Kind.READERS, lambda: _runs(session, text))
    selections = await find_selections(session, places)
    versions = {one.version.id: one.version for one in selections}
    return [
        Use(run=run, artifact_id=version.id, version=version.path)
        for run in runs
        for version in versions.values()
    ]


def _runs(session: Session, text: str) -> Collection[Run | str]:
    """Return the run of that name, or those that this process is started by. Raises WbfsError."""
    if text != AUTO_RUN:
        return [session.run(text)]
    server = session.credentials.base_url
    readers = Readers(server=server, default_entity=session.viewer.entity)
    runs = readers.runs_of(kin_of(os.getpid()))
    if not runs:
        raise UsageError(
            "whose input is it? This is not started by a program with a run at"
            f" {server}: name one with --run ENTITY/PROJECT/RUN"
        )
    return runs


def _send(sender: Sender, uses: list[Use], deadline: Deadline, *, send_all: bool) -> list[Recorded]:
    """Tell the server, in a worker thread; a run that begins is waited for until it is known."""
    waiting = sender.read() if send_all else []
    sender.add(uses)
    done = uses + [use for use in waiting if use not in uses]
    sender.send(only=done)
    while not deadline.expired and any(
        isinstance(sender.resolved(use).run, str) and sender.why_not(use) for use in uses
    ):
        checkpoint()
        time.sleep(LOG_POLL_S)
        sender.send(only=uses)
    sender.close()
    known = [sender.resolved(use) for use in done]
    return [Recorded(use=use, error=sender.why_not(use)) for use in known]

"""What `wbfs use` does: look versions up, and tell the server that they are inputs of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from wbfs.cli.files.orders import find_selections
from wbfs.daemon.exit_codes import exit_code_of
from wbfs.daemon.lineage.readers import Readers, kin_of
from wbfs.daemon.lineage.sender import Sender, ToldByAnother
from wbfs.daemon.mounts.paths import MountedPath
from wbfs.daemon.session import Session, open_session
from wbfs.fetch.work.background import in_background
from wbfs.fetch.work.offload import Kind, checkpoint
from wbfs.model.entries import Version
from wbfs.model.errors import UsageError, WbfsError
from wbfs.model.runs import Run, Use
from wbfs.model.settings import AUTO_RUN, SessionSettings
from wbfs.remote.http.transport import Deadline
from wbfs.store.known.uses import Uses

POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A use that was to be recorded, and why it was not."""

    use: Use
    error: WbfsError | None

    @property
    def run(self) -> str:
        """The run, as far as it is known."""
        return self.use.run if isinstance(self.use.run, str) else self.use.run.path

    @property
    def is_done(self) -> bool:
        """Whether the server knows it."""
        return self.error is None

    def __str__(self) -> str:
        """What became of it."""
        if self.error is None:
            return f"{self.use.version} is an input of {self.run}"
        return f"{self.use.version} is not an input of {self.run}: {self.error}"


def exit_code_of_all(recorded: Collection[Recorded]) -> int:
    """Return the exit code of what was to be recorded."""
    codes = [exit_code_of(one.error) for one in recorded if one.error is not None]
    return max(codes, default=0)


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
        runs = await find_runs(session, run) if places else []
        selections = await find_selections(session, places)
        versions = {one.version.id: one.version for one in selections}
        return await record_versions(
            session, settings, runs, list(versions.values()), send_all=send_all
        )


async def find_runs(session: Session, text: str) -> Collection[Run | str]:
    """Return the run of that name, or those that this process is started by. Raises WbfsError."""
    return await session.offload.run(Kind.READERS, lambda: _runs(session, text))


async def record_versions(
    session: Session,
    settings: SessionSettings,
    runs: Collection[Run | str],
    versions: Collection[Version],
    *,
    send_all: bool = False,
) -> list[Recorded]:
    """Record versions as inputs of runs; with `send_all` what waits as well."""
    uses = [
        Use(run=run, artifact_id=version.id, version=version.path)
        for run in runs
        for version in versions
    ]
    viewer = session.viewer
    kept = Uses(settings.cache_dir, server=session.credentials.base_url, viewer=viewer)
    sender = Sender(kept, session.api.runs, default_entity=viewer.entity)
    deadline = Deadline.after(settings.timeout_s)
    return await session.offload.run(
        Kind.LINEAGE, lambda: _send(sender, uses, deadline, send_all=send_all)
    )


def _runs(session: Session, text: str) -> Collection[Run | str]:
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
    """Tell the server, in a worker thread, and wait for what will soon be known.

    That is whose run it is that begins, and what others tell the server at the same moment.
    """
    waiting = sender.read() if send_all else []
    sender.add(uses)
    done = uses + [use for use in waiting if use not in uses]
    sender.send(only=done)

    def is_open(use: Use) -> bool:
        resolved = sender.resolved(use)
        error = sender.why_not(resolved)
        begins = use in uses and isinstance(resolved.run, str)
        return isinstance(error, ToldByAnother) or (begins and error is not None)

    while not deadline.expired and any(map(is_open, done)):
        checkpoint()
        time.sleep(POLL_S)
        sender.send(only=[*done, *map(sender.resolved, done)])
    sender.close()
    known = [sender.resolved(use) for use in done]
    return [Recorded(use=use, error=sender.why_not(use)) for use in known]

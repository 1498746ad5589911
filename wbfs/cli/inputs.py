"""What `wbfs use` does: look versions up, and tell the server that they are inputs of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from wbfs.cli.orders import find_selections
from wbfs.daemon.lineage.sender import Sender
from wbfs.daemon.mounts.paths import MountedPath
from wbfs.daemon.session import Session, open_session
from wbfs.fetch.background import in_background
from wbfs.fetch.offload import Kind
from wbfs.model.errors import WbfsError
from wbfs.model.runs import Use, parse_run
from wbfs.model.settings import SessionSettings


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
        sender = Sender.of_session(session, settings.cache_dir)
        return await session.offload.run(
            Kind.LINEAGE, lambda: _send(sender, uses, send_all=send_all)
        )


async def _uses(session: Session, places: Sequence[MountedPath | str], text: str) -> list[Use]:
    run = parse_run(
        text,
        default_entity=session.credentials.entity or session.viewer.entity,
        default_project=session.credentials.project,
    )
    selections = await find_selections(session, places)
    versions = {one.version.id: one.version for one in selections}
    return [
        Use(run=run, artifact_id=version.id, version=version.path) for version in versions.values()
    ]


def _send(sender: Sender, uses: list[Use], *, send_all: bool) -> list[Recorded]:
    """Tell the server once, in a worker thread."""
    waiting = sender.read() if send_all else []
    sender.add(uses)
    done = uses + [use for use in waiting if use not in uses]
    sender.send(only=done)
    known = [sender.resolved(use) for use in done]
    return [Recorded(use=use, error=sender.why_not(use)) for use in known]

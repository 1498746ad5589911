"""What `wbfs lock` looks up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from wbfs.daemon.locks import at_once
from wbfs.daemon.session import Session, open_session
from wbfs.fetch.work.background import in_background
from wbfs.model.errors import NotFound, UsageError
from wbfs.model.locks import Locked, lock_of
from wbfs.model.names import name_at
from wbfs.model.settings import SessionSettings


def look_up_all(settings: SessionSettings, names: Sequence[str]) -> dict[str, Locked | NotFound]:
    """Return by its full name what each name is now. Raises WbfsError."""
    return trio.run(_look_up_all, settings, names)


async def _look_up_all(
    settings: SessionSettings, names: Sequence[str]
) -> dict[str, Locked | NotFound]:
    async with in_background() as background, open_session(settings, background) as session:
        return dict(await at_once(session, names, partial(_look_up, session)))


async def _look_up(session: Session, name: str) -> tuple[str, Locked | NotFound]:
    of = await session.source(name)
    if not of.alias or of.folder:
        raise UsageError(f"{name} names no version: give entity/project/artifact:alias")
    full_name = name_at(*of.place)
    try:
        return full_name, lock_of(full_name, await session.version(*of.place))
    except NotFound as error:
        return full_name, error

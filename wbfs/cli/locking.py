"""What `wbfs lock` looks up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from wbfs.daemon.locks import AT_ONCE
from wbfs.daemon.session import Session, open_session
from wbfs.fetch.background import in_background
from wbfs.model.errors import NotFound, UsageError
from wbfs.model.locks import Locked, lock_of
from wbfs.model.settings import SessionSettings


def look_up_all(settings: SessionSettings, names: Sequence[str]) -> dict[str, Locked | NotFound]:
    """Return by its full name what each name is now. Raises WbfsError."""
    return trio.run(_look_up_all, settings, names)


async def _look_up_all(
    settings: SessionSettings, names: Sequence[str]
) -> dict[str, Locked | NotFound]:
    limit = trio.CapacityLimiter(AT_ONCE)
    async with in_background() as background, open_session(settings, background) as session:
        looking = [
            background.spawn(
                partial(_look_up, session, limit, name), name=f"look up {name}", is_awaited=True
            )
            for name in names
        ]
        return dict([await work.result() for work in looking])


async def _look_up(
    session: Session, limit: trio.CapacityLimiter, name: str
) -> tuple[str, Locked | NotFound]:
    async with limit:
        of = await session.source(name)
        if not of.alias or of.folder:
            raise UsageError(f"{name} names no version: give entity/project/artifact:alias")
        full_name = f"{of.entity}/{of.project}/{of.collection}:{of.alias}"
        try:
            version = await session.version(of.entity, of.project, of.collection, of.alias)
        except NotFound as error:
            return full_name, error
        return full_name, lock_of(full_name, version)

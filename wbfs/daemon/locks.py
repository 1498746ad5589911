"""Versions that a lock file names, as the server has them now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import trio

from wbfs.daemon.session import Session
from wbfs.model.entries import Version
from wbfs.model.errors import NotFound, UsageError
from wbfs.model.locks import Locked

AT_ONCE = 8
"""Versions that are asked for at the same time."""

T = TypeVar("T")
R = TypeVar("R")


async def locked_version(session: Session, locked: Locked) -> Version:
    """Return the version that an alias is locked to. Raises WbfsError where it is another one."""
    entity, project, collection, alias = locked.place
    locked_to = f"{locked.name} is locked to {locked.version}"
    try:
        version = await session.version(entity, project, collection, locked.version)
    except NotFound as error:
        if session.names.then:
            raise UsageError(
                f"{locked_to}, which was not there{session.names.then}, or is gone: leave --lock or"
                " --as-of out"
            ) from error
        raise NotFound(
            f"{locked_to}, which is gone: {error}; see wbfs lock --check, and move it with wbfs"
            " lock --update"
        ) from error
    if not locked.is_of(version):
        raise UsageError(
            f"{locked_to} with the digest {locked.digest} and the id {locked.id}, and at"
            f" {session.credentials.base_url} that is another one, with {version.digest} and"
            f" {version.id}: it was deleted and logged again, or the lock is another"
            " server's; look at it, and move the lock with wbfs lock --update"
        )
    return version


async def at_once(
    session: Session, wanted: Iterable[T], look_up: Callable[[T], Awaitable[R]]
) -> list[R]:
    """Return what is looked up of each, some at the same time. Raises what `look_up` does."""
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(thing: T) -> R:
        async with limit:
            return await look_up(thing)

    background = session.resources.background
    work = [
        background.spawn(partial(one, thing), name="look up names", is_awaited=True)
        for thing in wanted
    ]
    return [await found.result() for found in work]


async def pin_locked(session: Session, locks: Iterable[Locked]) -> None:
    """Have each alias be the version that it is locked to, for the session's life.

    Raises WbfsError where one can't be.
    """

    async def pin(locked: Locked) -> None:
        session.names.pin(locked.place, await locked_version(session, locked))

    await at_once(session, locks, pin)

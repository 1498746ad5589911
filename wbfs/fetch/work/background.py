"""The one way to run something in the background: what goes wrong in it touches nothing else.

A defect is logged with its traceback, counted, and told to whoever waits for that piece of work;
everything else goes on. Trio thread only.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

from wbfs.model.errors import NO_DESCRIPTOR, Defect, RemoteError, WbfsError, no_descriptor

log = logging.getLogger(__name__)

T = TypeVar("T")


class Work(Generic[T]):
    """A piece of work under way, or what became of it; `ended` is set in either case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = trio.Event()
        self._scope = trio.CancelScope()
        self._waiting = 0
        self._value: T | None = None
        # What is told of work that is cancelled.
        self._error: WbfsError | None = RemoteError("the mount is being taken down")

    async def result(self) -> T:
        """Wait until it has ended, and return what it returned.

        Raises the WbfsError that it raised, and Defect where it failed by a defect. Whoever has a
        deadline leaves; the work goes on.
        """
        self._waiting += 1
        try:
            await self.ended.wait()
        finally:
            self._waiting -= 1
        if self._error is not None:
            # Not with the tracebacks of all who were told before.
            raise self._error.with_traceback(None)
        # None is a value as good as any: T may be optional.
        return self._value  # type: ignore[return-value]

    def cancel(self) -> None:
        """Have it end where it waits next."""
        self._scope.cancel()


class Background:
    """What runs beside the operations of one session; `defects` counts what failed by one."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.defects = 0

    def spawn(
        self, function: Callable[[], Awaitable[T]], *, name: str, is_awaited: bool = False
    ) -> Work[T]:
        """Start work, named for logs, that ends with the session at the latest.

        What it fails with is logged unless somebody waits for it, or will: `is_awaited`.
        """
        work: Work[T] = Work(name)
        self._nursery.start_soon(self._run, work, function, is_awaited, name=name)
        return work

    async def _run(
        self, work: Work[T], function: Callable[[], Awaitable[T]], is_awaited: bool
    ) -> None:
        try:
            with work._scope:
                work._value = await function()
                work._error = None
        except WbfsError as error:
            work._error = error
            if not (work._waiting or is_awaited):
                log.warning("%s: %s", work.name, error)
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits
            work._error = self.defect(work.name, error)
        finally:
            work.ended.set()

    def defect(self, doing: str, error: Exception) -> WbfsError:
        """Note an exception that no code of ours means to raise; return what is told of it.

        That no descriptor is left may be found out anywhere, and is no defect.
        """
        if isinstance(error, OSError) and error.errno in NO_DESCRIPTOR:
            log.warning("%s: %s", doing, error)
            return no_descriptor(f"do this: {doing}")
        self.defects += 1
        log.error("defect: %s", doing, exc_info=error)
        return Defect(
            f"a defect of wbfs ({type(error).__name__}) while doing this: {doing}; the log has more"
        )


@asynccontextmanager
async def in_background() -> AsyncIterator[Background]:
    """Yield what runs things in the background; what still runs at the end is cancelled.

    What the body raises comes out as it is.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield Background(nursery)
        except BaseException as error:  # noqa: BLE001 - it is raised past the nursery's end
            # Which would wrap it in a group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure

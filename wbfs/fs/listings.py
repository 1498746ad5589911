"""A directory's names as they come, page by page: any number of programs read what is there.

Names keep their positions, so that whoever opened the directory sees each of them once, however
much is added while they read. Trio thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import trio

from wbfs.fetch.work.flights import SLACK_S
from wbfs.fs.above.questions import Child
from wbfs.model.errors import Defect, RemoteError, RemoteTimeout, WbfsError, while_doing


class Listing:
    """The names of one directory and what they are, in the order that they came.

    `valid_until` is the moment of trio's clock until which they may be believed.
    """

    def __init__(
        self,
        children: Iterable[tuple[str, Child]],
        valid_until: float,
        *,
        more_within_s: float | None = None,
    ) -> None:
        """Take all of a directory's names, or with `more_within_s` the first of them.

        More come until `filling` ends; a reader waits for them so many seconds at most.
        """
        self._children = list(children)
        self._more_within_s = more_within_s
        # Set, and replaced, whenever something has changed; None: nothing more is coming.
        self._changed = None if more_within_s is None else trio.Event()
        self._error: WbfsError | None = None
        self.valid_until = valid_until

    @property
    def is_growing(self) -> bool:
        """Whether more names are coming."""
        return self._changed is not None

    @property
    def children(self) -> Sequence[tuple[str, Child]]:
        """The names so far."""
        return self._children

    def add(self, children: Iterable[tuple[str, Child]], valid_until: float) -> None:
        """Append names, none of which may be there yet."""
        self._children += children
        self.valid_until = valid_until
        self._wake(trio.Event())

    @contextmanager
    def filling(self, what: str) -> Iterator[None]:
        """Have no more names come than those that are added in the context.

        The error that it ends with, if any, goes no further than to those who read on past the
        names that came, with `what` was being done in front of its text.
        """
        # What readers are told if the mount ends first.
        self._error = RemoteError("the mount is being taken down")
        try:
            yield
            self._error = None
        except WbfsError as error:
            self._error = while_doing(what, error)
        except Exception as error:
            self._error = Defect(f"can't {what}: a defect of wbfs ({type(error).__name__})")
            raise
        finally:
            self._wake(None)

    def _wake(self, event: trio.Event | None) -> None:
        changed, self._changed = self._changed, event
        if changed is not None:
            changed.set()

    async def after(self, position: int) -> Sequence[tuple[str, Child]]:
        """Return what there is after the first `position` names; nothing at the end only.

        Where there is nothing yet, it is waited for. Raises what the listing failed with, or
        RemoteTimeout; the listing goes on then.
        """
        if self._more_within_s is not None:
            with trio.move_on_after(self._more_within_s + SLACK_S):
                while self._changed is not None and position >= len(self._children):
                    await self._changed.wait()
        children = self._children[position:]
        if children:
            return children
        if self._changed is not None:
            raise RemoteTimeout(
                f"no more names of the directory within {self._more_within_s:.0f} s; the server or"
                " the network is slow: try again, or raise --timeout"
            )
        if self._error is not None:
            raise self._error
        return ()

"""Open files and directories by the handle that the kernel names them by. Trio thread."""

from __future__ import annotations

from typing import Generic, NewType, TypeVar

from wbfs.model.errors import BadHandle

HandleId = NewType("HandleId", int)

T = TypeVar("T")


class Handles(Generic[T]):
    """What is open; numbers are not used twice, so that a late request can't hit another's."""

    def __init__(self) -> None:
        self._open: dict[HandleId, T] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._open)

    def add(self, opened: T) -> HandleId:
        """Return a new handle."""
        handle = HandleId(self._next)
        self._next += 1
        self._open[handle] = opened
        return handle

    def get(self, handle: HandleId) -> T:
        """Return what the handle stands for. Raises BadHandle."""
        try:
            return self._open[handle]
        except KeyError:
            raise BadHandle(f"handle {handle} is not open") from None

    def pop(self, handle: HandleId) -> T | None:
        """Forget the handle and return what it stood for."""
        return self._open.pop(handle, None)

    def clear(self) -> list[T]:
        """Forget all handles and return what they stood for."""
        opened = list(self._open.values())
        self._open.clear()
        return opened

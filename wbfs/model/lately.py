"""What is remembered for as long as there is room for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

MOST = 10_000

K = TypeVar("K")
V = TypeVar("V")


class Lately(Generic[K, V]):
    """What was learnt lately: no more than fits, so that no manifest makes it grow without end."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._found: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return what was learnt, if it is still known."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: K, value: V) -> None:
        """Remember it, and forget what was asked for least recently."""
        with self._lock:
            self._found[key] = value
            self._found.move_to_end(key)
            if len(self._found) > self._most:
                self._found.popitem(last=False)

    def pop(self, key: K) -> None:
        """Forget it."""
        with self._lock:
            self._found.pop(key, None)

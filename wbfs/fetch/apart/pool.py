"""Some processes apart for one program, which share its orders. Trio thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic

from wbfs.fetch.apart.process import Done, Process
from wbfs.fetch.apart.spares import Spares
from wbfs.fetch.apart.worker import A, O, Program
from wbfs.fetch.work.background import Background


class Pool(Generic[O, A]):
    """The processes; each order goes to that which has the fewest."""

    def __init__(
        self, background: Background, program: Program[O, A], spares: Spares, *, count: int
    ) -> None:
        """Start none before there is an order."""
        self._threads = program.threads
        self._under_way: dict[Process[O, A], int] = {
            Process(background, program, spares): 0 for _ in range(count)
        }

    @property
    def has_room(self) -> bool:
        """Whether one of them would begin with an order at once."""
        return any(count < self._threads for count in self._under_way.values())

    def order(
        self,
        order: O,
        done: Done[A],
        *,
        timeout_s: float,
        on_news: Callable[[Any], None] = lambda news: None,
    ) -> tuple[Process[O, A], Callable[[object], None]]:
        """Do what `Process.order` does, and return the process, too, that is to obey."""
        process = min(self._under_way, key=self._under_way.__getitem__)

        def settle(answer: A | None, error: Exception | None) -> None:
            self._under_way[process] -= 1
            done(answer, error)

        wish = process.order(order, settle, timeout_s=timeout_s, on_news=on_news)
        self._under_way[process] += 1
        return process, wish

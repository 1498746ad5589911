"""Fetches what is ordinary of the small files that are ordered, all of them by one thread.

That is W&B's own files, of a size and a digest that are known, over connections that are there and
idle. The rest is left to threads that fetch one file each: what is to be had in another way, what
no connection is there for (they make one), and what comes otherwise than it should: they ask again,
and what they find is what is told. A thread for each file took a third longer, since threads fight
for Python's lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from wbfs.fetch.small.orders import Done, Order
from wbfs.fetch.transfer import stretched
from wbfs.model.errors import IntegrityError, WbfsError
from wbfs.remote.http.bytes import REFUSALS, refused
from wbfs.remote.http.exchanges import HEAD_BYTES, Exchange, Unusual
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import (
    FIRST_WAIT_S,
    PATIENT_SHARE,
    SILENCE_S,
    Transport,
    is_passing,
)
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.partial import PartialBlobs

log = logging.getLogger(__name__)

TICK_S = 0.25
"""Seconds after which it is looked again which servers are silent."""
MOST_UNUSUAL = 8
"""Unusual answers of a server in a row, after which its files are left: each is asked for twice."""

Answer = tuple[int, Done | None, Exception | None]
"""An order's number, and what became of it."""


@dataclass(slots=True, eq=False)
class _UnderWay:
    """A file on its way; it is given up where nothing comes until then, or not all."""

    number: int
    order: Order
    exchange: Exchange
    quiet_until_s: float
    late_at_s: float


class Lane:
    """The thread, and the files that it has under way."""

    def __init__(
        self,
        transport: Transport,
        blobs: Blobs,
        partial: PartialBlobs,
        *,
        width: int,
        timeout_s: float,
        answer: Callable[[list[Answer]], None],
        leave: Callable[[int, Order], None],
    ) -> None:
        """Start it, with `width` files on their way at once, those that were left among them.

        `timeout_s` is for how long a server may be silent before an order has failed.
        """
        self._transport = transport
        self._blobs = blobs
        self._partial = partial
        self._width = width
        self._timeout_s = timeout_s
        self._silence_s = min(SILENCE_S, timeout_s * PATIENT_SHARE)
        self._answer = answer
        self._leave = leave
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.epoll()
        self._poll.register(self._news, select.EPOLLIN)
        # Other threads change these two.
        self._waiting: deque[tuple[int, Order]] = deque()
        self._left: set[int] = set()
        # Those of them that are to be left in a moment: when, and what.
        self._later: list[tuple[float, int, Order]] = []
        # By descriptor.
        self._under_way: dict[int, _UnderWay] = {}
        self._room = memoryview(bytearray(HEAD_BYTES))
        # How often each server's answers were unusual, one after another.
        self._unusual: Counter[str] = Counter()
        threading.Thread(target=self._run_or_end, name="lane", daemon=True).start()

    def take(self, orders: Iterable[tuple[int, Order]]) -> None:
        """Fetch files; in any thread."""
        self._waiting.extend(orders)
        os.eventfd_write(self._news, 1)

    def came_back(self, number: int) -> None:
        """Note that what was left is done, and its connection idle, if any; in any thread."""
        self._left.discard(number)
        if self._waiting:
            os.eventfd_write(self._news, 1)

    def _run_or_end(self) -> NoReturn:
        try:
            self._run()
        finally:
            # Whoever has ordered finds out, and fetches what is missing otherwise.
            os._exit(1)

    def _run(self) -> NoReturn:
        look_at_s = 0.0
        while True:
            answers = []
            for fd, _ in self._poll.poll(TICK_S if self._under_way or self._later else None):
                if fd == self._news:
                    os.eventfd_read(fd)
                elif (answer := self._go_on(fd)) is not None:
                    answers.append(answer)
            if answers:
                self._answer(answers)
            while self._waiting and len(self._under_way) + len(self._left) < self._width:
                self._begin(*self._waiting.popleft())
            now_s = time.monotonic()
            if now_s >= look_at_s:
                look_at_s = now_s + TICK_S
                self._give_up(now_s)
                self._leave_those_due(now_s)

    def _begin(self, number: int, order: Order) -> None:
        exchange: Exchange | None = None
        try:
            exchange = self._ask(order)
            if exchange is not None:
                self._poll.register(exchange.fileno(), select.EPOLLIN)
        except (Unusual, WbfsError):
            # Those who ask again find out what is the matter.
            pass
        except Exception:
            log.exception("defect: ask for %s", order.path)
            if exchange is not None:
                exchange.close()
                exchange = None
        if exchange is None:
            self._leave_it(number, order)
            return
        now_s = time.monotonic()
        late_at_s = now_s + stretched(self._timeout_s, order.entry.size)
        self._under_way[exchange.fileno()] = _UnderWay(
            number, order, exchange, now_s + self._silence_s, late_at_s
        )

    def _ask(self, order: Order) -> Exchange | None:
        """Ask for an ordinary file, if there is a connection for it. Raises Unusual, WbfsError."""
        entry = order.entry
        if order.by_gateway or not order.url or not entry.size or entry.digest is None:
            return None
        idle = self._transport.idle(order.url, peer=Peer.WANDB_STORE)
        if idle is None:
            return None
        if self._unusual[idle.server] >= MOST_UNUSUAL:
            idle.give_back()
            return None
        return Exchange(idle, entry.size, self._room)

    def _leave_it(self, number: int, order: Order) -> None:
        self._left.add(number)
        self._leave(number, order)

    def _go_on(self, fd: int) -> Answer | None:
        """Take what has come of a file; return what became of it, where that is known."""
        one = self._under_way[fd]
        try:
            body = one.exchange.go_on()
            if body is None:
                one.quiet_until_s = time.monotonic() + self._silence_s
                return None
            self._is_over(fd)
            self._unusual.pop(one.exchange.server, None)
            return one.number, self._kept(one.order, body), None
        except IntegrityError:
            self._leave_it(one.number, one.order._replace(was_wrong=True))
            return None
        except WbfsError as error:
            return one.number, None, error
        except Unusual as unusual:
            self._is_over(fd)
            self._unusual[one.exchange.server] += 1
            if unusual.status in REFUSALS:
                # Whoever asks again is refused again.
                return one.number, None, refused(one.order.url, unusual.status)
            if is_passing(unusual.status):
                # As after the first of several attempts, so that a server is asked no more often.
                self._left.add(one.number)
                due_s = time.monotonic() + random.uniform(0, FIRST_WAIT_S)
                self._later.append((due_s, one.number, one.order))
                return None
        except Exception:
            log.exception("defect: fetch %s", one.order.path)
            self._is_over(fd)
        self._leave_it(one.number, one.order)
        return None

    def _kept(self, order: Order, body: memoryview) -> Done:
        """Keep a file if it is what it should be. Raises IntegrityError, StoreError."""
        with self._partial.small(order.entry.blob) as partial:
            partial.write(0, body)
            return Done(known=self._blobs.hand_over(partial.seal(is_unread=order.is_unread)))

    def _is_over(self, fd: int) -> None:
        self._under_way.pop(fd, None)
        # It may be closed.
        with contextlib.suppress(OSError):
            self._poll.unregister(fd)

    def _leave_those_due(self, now_s: float) -> None:
        later, self._later = self._later, []
        for due_s, number, order in later:
            if now_s >= due_s:
                self._leave(number, order)
            else:
                self._later.append((due_s, number, order))

    def _give_up(self, now_s: float) -> None:
        """Leave what is too slow."""
        for fd, one in list(self._under_way.items()):
            if now_s >= min(one.quiet_until_s, one.late_at_s):
                self._is_over(fd)
                one.exchange.close()
                self._leave_it(one.number, one.order)

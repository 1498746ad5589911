"""The program of a process apart: does what it is told, and says what became of it.

    python -m wbfs.fetch.apart.worker FD NAME

It talks over the socket `FD`, in pickles with their length in front: it is sent a `Program`, then
lists of orders with their numbers, and sends lists of answers: each an order's number, what was
returned, and what was raised. An empty one now and then tells that it is well. `NAME` is for who
looks at the processes. Of an order under way it may send news, with its number, and be sent wishes,
by their numbers.

When its input ends, whoever started it is gone, or needs it no more, and it ends too. Its standard
streams lead nowhere: a library may print what it likes. It imports little, to start fast.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from wbfs.model.errors import RemoteError

O = TypeVar("O")  # noqa: E741 - an order
A = TypeVar("A")
Answering = Callable[[Sequence[tuple[int, Any, BaseException | None]]], None]
"""What sends answers: orders' numbers, what was returned, and what was raised."""

WELL_EVERY_S = 0.5
RECEIVED_BYTES = 1 << 18
_LENGTH = struct.Struct("!I")


def nothing(order: object) -> None:
    """Leave nothing of an order to be tidied up."""


class Talk:
    """What is said of an order while it is obeyed; `wish` is the last that was sent after it."""

    def __init__(self, tell: Callable[[object], None]) -> None:
        """`tell` sends news."""
        self.tell = tell
        self.wish: Any = None


class Lane(Protocol):
    """What takes orders before the threads do, and leaves some to them."""

    def take(self, orders: Iterable[tuple[int, Any]], /) -> None:
        """Obey orders, given with their numbers; in any thread."""

    def came_back(self, number: int, /) -> None:
        """Note that one that was left is answered; in any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Generic[O, A]):
    """What a process is for. All of it can be pickled.

    `prepare` returns, in the process, what obeys an order, in as many `threads`, and talks about it
    meanwhile where it `talks`. Where there is a `lane`, that is given what `prepare` has returned,
    what answers orders, and what leaves one to the threads, and returns what takes orders first.
    `abandon` removes what is left of one that is under way when nobody
    wants it any more. Of a process that was `silent_s` seconds silent it is taken that it hangs;
    one without orders ends after `idle_s`.
    """

    name: str
    prepare: Callable[[], Callable[[O], A] | Callable[[O, Talk], A]]
    talks: bool = False
    lane: Callable[[Any, Answering, Callable[[int, O], None]], Lane] | None = None
    abandon: Callable[[O], None] = nothing
    threads: int = 1
    silent_s: float
    idle_s: float = 0.0


def packed(message: object) -> bytes:
    """Return a message as it is sent."""
    body = pickle.dumps(message)
    return _LENGTH.pack(len(body)) + body


def unpacked(received: bytearray) -> Iterator[Any]:
    """Take the messages that are whole off what was received."""
    while len(received) >= _LENGTH.size:
        stop = _LENGTH.size + _LENGTH.unpack_from(received)[0]
        if len(received) < stop:
            return
        body = bytes(received[_LENGTH.size : stop])
        del received[:stop]
        yield pickle.loads(body)


class _Worker:
    def __init__(self, channel: socket.socket, on_program: Callable[[str], None]) -> None:
        self._channel = channel
        self._on_program = on_program
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._under_way: dict[int, Any] = {}
        self._talks: dict[int, Talk] = {}
        self._program: Program[Any, Any] | None = None
        self._lane: Lane | None = None

    def run(self) -> NoReturn:
        """Obey until the input ends."""
        received = bytearray()
        well_at_s = time.monotonic()
        while True:
            if select.select([self._channel], [], [], WELL_EVERY_S)[0]:
                piece = self._channel.recv(RECEIVED_BYTES)
                if not piece:
                    self._end()
                received += piece
                for message in unpacked(received):
                    self._take(message)
            if time.monotonic() >= well_at_s:
                well_at_s = time.monotonic() + WELL_EVERY_S
                self._send([])

    def _take(self, message: Any) -> None:
        if self._program is None:
            self._program = message
            self._on_program(message.name)
            obey = self._program.prepare()
            if self._program.lane is not None:
                self._lane = self._program.lane(obey, self._answer, self._leave)
            for _ in range(self._program.threads):
                threading.Thread(target=self._work, args=(obey,), daemon=True).start()
            return
        if isinstance(message, dict):
            for number, wish in message.items():
                # It may have been obeyed meanwhile.
                if (talk := self._talks.get(number)) is not None:
                    talk.wish = wish
            return
        self._under_way.update(message)
        if self._lane is not None:
            self._lane.take(message)
            return
        for number, order in message:
            self._talks[number] = Talk(partial(self._tell, number))
            self._leave(number, order)

    def _leave(self, number: int, order: object) -> None:
        self._orders.put((number, order))

    def _tell(self, number: int, news: object) -> None:
        self._send([(number, news)])

    def _work(self, obey: Callable[..., Any]) -> NoReturn:
        assert self._program is not None
        while True:
            number, order = self._orders.get()
            about = (order, self._talks[number]) if self._program.talks else (order,)
            answer: tuple[int, Any, BaseException | None]
            try:
                answer = (number, obey(*about), None)
            except BaseException as error:  # noqa: BLE001 - each order has an answer
                answer = (number, None, error)
            self._answer([answer])
            if self._lane is not None:
                self._lane.came_back(number)

    def _answer(self, answers: Sequence[tuple[int, Any, BaseException | None]]) -> None:
        self._send(
            [
                (number, answer, None if error is None else _portable(error))
                for number, answer, error in answers
            ]
        )
        # Not before: of what nobody is there to be told, nothing is to be left.
        for number, _, _ in answers:
            del self._under_way[number]
            self._talks.pop(number, None)

    def _send(self, message: object) -> None:
        try:
            with self._sending:
                self._channel.sendall(packed(message))
        except OSError:
            # Whoever started it was killed.
            self._end()

    def _end(self) -> NoReturn:
        if self._program is not None:
            for order in list(self._under_way.values()):
                self._program.abandon(order)
        # Threads may wait for slow servers; nobody waits for them.
        os._exit(0)


def _portable(error: BaseException) -> BaseException:
    """Return an error that is the same when it arrives; in words where it can't be sent."""
    if not isinstance(error, Exception):
        return RemoteError(f"a process apart was to end: {type(error).__name__}")
    # What a traceback says but for its values.
    error.add_note("in a process apart:\n" + "".join(traceback.format_tb(error.__traceback__)))
    try:
        is_same = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # noqa: BLE001 - an exception's own code may fail in any way
        is_same = False
    if is_same:
        return error
    # Nothing is known of what its text may hold.
    return RemoteError(f"a process apart failed: {type(error).__name__}")


def obey(channel: int, on_program: Callable[[str], None] = lambda name: None) -> NoReturn:
    """Obey whoever has the other end of the socket `channel`, until that is closed.

    `on_program` is told the name of the program, once it has come.
    """
    os.umask(0o077)
    _Worker(socket.socket(fileno=channel), on_program).run()


if __name__ == "__main__":
    obey(int(sys.argv[1]))

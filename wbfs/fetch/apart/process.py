"""A process apart as the others see it: started when there is an order, ended when there is none.

It may hang, be killed, or not start: within a known time each order is answered, or told that it is
`Lost`. Then it is to be done here. Trio thread.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic

import trio

import wbfs
from wbfs.fetch.apart import worker
from wbfs.fetch.apart.spares import Spare, Spares
from wbfs.fetch.apart.worker import RECEIVED_BYTES, A, O, Program, packed, unpacked
from wbfs.fetch.work.background import Background
from wbfs.model.errors import WbfsError

log = logging.getLogger(__name__)

TICK_S = 0.25
"""Seconds after which it is looked again whether the process hangs."""
MOMENT_S = 5.0
"""Seconds of silence after which what a program waits for is better done here; on a busy machine a
process may take as long to start."""
LONGEST_PAUSE_S = 60.0
"""Seconds before a process is started again, at most, after several that failed in a row."""
END_S = 5.0


class Lost(WbfsError):
    """The process could not do what was ordered: it was killed, it hangs, or takes too long."""


class NotStarted(Lost):
    """There is no process: the system has none to give."""


Done = Callable[[A | None, Exception | None], None]


@dataclass(slots=True, eq=False)
class _Ordered(Generic[O, A]):
    """An order, whom to tell that it is done, by which moment of trio's clock, and what is new."""

    order: O
    done: Done[A]
    due: float
    on_news: Callable[[Any], None]


class Process(Generic[O, A]):
    """At most one process at a time, for one program."""

    def __init__(
        self, background: Background, program: Program[O, A], spares: Spares | None = None
    ) -> None:
        """It is one of the `spares`, as long as there are any."""
        self._background = background
        self._program = program
        self._spares = spares or Spares()
        self._name = f"the process for {program.name}"
        self._under_way: dict[int, _Ordered[O, A]] = {}
        self._numbers = 0
        self._to_send: list[tuple[int, O]] = []
        self._wishes: dict[int, object] = {}
        self._has_more = trio.Event()
        self._news = trio.Event()
        self._is_running = False
        # In ticks of this process, which may have been stopped itself.
        self._quiet_ticks = 0
        # What comes after the next failure.
        self._pause_s = 0.0
        self._paused_until = 0.0
        self._failure = Lost(f"{self._name} was not started yet")

    @property
    def is_quiet(self) -> bool:
        """Whether nothing was heard of the process for longer than a moment."""
        return self._is_running and self._quiet_ticks * TICK_S > MOMENT_S

    def order(
        self,
        order: O,
        done: Done[A],
        *,
        timeout_s: float,
        on_news: Callable[[Any], None] = lambda news: None,
    ) -> Callable[[object], None]:
        """Have something done, and `done` be told what was returned or raised; return what wishes.

        That is Lost, after `timeout_s` seconds at the latest, where the process failed. Raises it
        here for a while after several processes did. `on_news` is told what the process has to say
        meanwhile, and what is wished is sent to it.
        """
        if not self._is_running:
            if trio.current_time() < self._paused_until:
                raise self._failure.with_traceback(None)
            self._is_running = True
            self._background.spawn(self._run, name=self._name)
        self._numbers += 1
        due = trio.current_time() + timeout_s
        self._under_way[self._numbers] = _Ordered(order, done, due, on_news)
        self._to_send.append((self._numbers, order))
        self._has_more.set()
        return partial(self._wish, self._numbers)

    def _wish(self, number: int, wish: object) -> None:
        if number in self._under_way:
            self._wishes[number] = wish
            self._has_more.set()

    async def result(self, order: O, *, timeout_s: float) -> A:
        """Have something done, and return what is returned, or raise what is raised, or Lost."""
        ended = trio.Event()
        outcome: list[tuple[A | None, Exception | None]] = []

        def done(answer: A | None, error: Exception | None) -> None:
            outcome.append((answer, error))
            ended.set()

        self.order(order, done, timeout_s=timeout_s)
        with trio.move_on_after(timeout_s + END_S):
            await ended.wait()
        if not outcome:
            # Not even the system's call to start it has come back.
            raise Lost(f"{self._name} takes too long")
        answer, error = outcome[0]
        if error is not None:
            raise error
        # None is a value as good as any.
        return answer  # type: ignore[return-value]

    async def _run(self) -> None:
        failure: Lost | None = None
        try:
            while (failure := await self._serve()) is None and self._under_way:
                # They came while it ended.
                self._to_send = [(number, one.order) for number, one in self._under_way.items()]
                self._has_more.set()
        except trio.Cancelled:
            for ordered in self._under_way.values():
                # Whoever waits for it may not come to that before this process ends.
                self._program.abandon(ordered.order)
            raise
        finally:
            self._is_running = False
            self._has_more = trio.Event()
            self._to_send = []
            self._wishes = {}
            lost, self._under_way = self._under_way, {}
            if failure is not None:
                self._note(failure)
            for ordered in lost.values():
                self._tell(ordered, None, failure or Lost("the mount is being taken down"))

    def _note(self, failure: Lost) -> None:
        """Have no process started for the longer the more have failed in a row."""
        log.warning("%s", failure)
        self._failure = failure
        self._paused_until = trio.current_time() + self._pause_s
        self._pause_s = min(2 * self._pause_s + 1, LONGEST_PAUSE_S)

    async def _serve(self) -> Lost | None:
        """Have orders carried out for as long as there are any, or return why that failed."""
        try:
            process, stream = await self._started()
        except (OSError, RuntimeError) as error:
            return NotStarted(f"{self._name} can't be started: {error}")
        talks = [
            self._background.spawn(partial(talk, stream), name=f"talk with {self._name}")
            for talk in (self._listen, self._send)
        ]
        why: str | None = None
        try:
            why = await self._watch(lambda: any(talk.ended.is_set() for talk in talks))
            if why == "":
                with trio.move_on_after(TICK_S):
                    await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S):
                for talk in talks:
                    talk.cancel()
                    await talk.ended.wait()
                await stream.aclose()
                await process.wait()
        if why is None:
            return None
        return Lost(f"{self._name} {why or _how_it_ended(process.returncode)}")

    async def _started(self) -> tuple[trio.Process | Spare, trio.SocketStream]:
        spare = self._spares.take()
        if spare is not None:
            return spare, trio.SocketStream(trio.socket.from_stdlib_socket(spare.channel))
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await trio.lowlevel.open_process(
                    [
                        sys.executable,
                        "-m",
                        worker.__name__,
                        str(theirs.fileno()),
                        self._program.name,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # Where this wbfs is, whether or not it is installed.
                    cwd=Path(wbfs.__file__).parents[1],
                    env={
                        name: text
                        for name, text in os.environ.items()
                        if not name.startswith("WANDB")
                    },
                    # Ctrl-C at the terminal is for the mount, which ends it.
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise
        return process, trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def _watch(self, is_over: Callable[[], bool]) -> str | None:
        """Wait until the process has no more to do, or return why it is to be ended before that.

        That is "" where it ended by itself.
        """
        idle_since = trio.current_time()
        self._quiet_ticks = 0
        while not is_over():
            now = trio.current_time()
            if self._under_way:
                idle_since = now
            elif now >= idle_since + self._program.idle_s:
                return None
            if self._quiet_ticks * TICK_S > self._program.silent_s:
                return f"was silent for {self._program.silent_s:.0f} s"
            if any(ordered.due <= now for ordered in self._under_way.values()):
                return "takes too long"
            with trio.move_on_after(TICK_S) as tick:
                await self._news.wait()
            self._news = trio.Event()
            self._quiet_ticks += tick.cancelled_caught
        return ""

    async def _send(self, stream: trio.SocketStream) -> None:
        try:
            await stream.send_all(packed(self._program))
            while True:
                await self._has_more.wait()
                self._has_more = trio.Event()
                orders, self._to_send = self._to_send, []
                wishes, self._wishes = self._wishes, {}
                await stream.send_all(packed(orders) + packed(wishes))
        except trio.BrokenResourceError:
            # It has ended.
            self._news.set()

    async def _listen(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        try:
            while piece := await stream.receive_some(RECEIVED_BYTES):
                self._quiet_ticks = 0
                received += piece
                for said in chain.from_iterable(unpacked(received)):
                    self._note_said(*said)
                if not self._under_way:
                    self._news.set()
        except trio.BrokenResourceError:
            log.debug("%s ended in the middle of a word", self._name)
        finally:
            self._news.set()

    def _note_said(self, number: int, said: Any, *error: Exception | None) -> None:
        if error:
            self._pause_s = 0.0
            self._tell(self._under_way.pop(number), said, *error)
        else:
            self._tell_news(self._under_way[number], said)

    def _tell_news(self, ordered: _Ordered[O, A], news: Any) -> None:
        try:
            ordered.on_news(news)
        except Exception as defect:  # noqa: BLE001 - the others are told all the same
            self._background.defect(f"note what {self._name} says", defect)

    def _tell(self, ordered: _Ordered[O, A], answer: A | None, error: Exception | None) -> None:
        try:
            ordered.done(answer, error)
        except Exception as defect:  # noqa: BLE001 - the others are told all the same
            self._background.defect(f"note what was done by {self._name}", defect)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by signal {-code}: is there enough memory?"
    return f"ended by itself ({code})"

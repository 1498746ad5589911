"""The process that fetches small files: started when there are any, ended when there are no more.

Trio thread.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Sequence

import msgspec
import trio

from wbfs.fetch.apart import carrying
from wbfs.fetch.apart.carrying import Carried, Order, Setup
from wbfs.fetch.apart.processes import command, error_of, surroundings
from wbfs.fetch.background import Background
from wbfs.model.errors import RemoteError, WbfsError

log = logging.getLogger(__name__)

IDLE_S = 30.0
"""Seconds without an order after which the process is ended, and its memory given back."""
END_S = 5.0


class Carrier:
    """Sends orders, and tells of each what became of it."""

    def __init__(
        self,
        *,
        background: Background,
        setup: Setup,
        on_carried: Callable[[list[tuple[int, WbfsError | None]]], None],
    ) -> None:
        """`on_carried` is told the numbers of orders, and why they failed if they did."""
        self._background = background
        self._setup = setup
        self._on_carried = on_carried
        self._under_way: set[int] = set()
        self._to_send: list[Order] = []
        self._has_more = trio.Event()
        self._is_running = False

    def send(self, orders: Sequence[Order]) -> None:
        """Have files fetched."""
        self._to_send += orders
        self._has_more.set()
        self._start()

    def _start(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._background.spawn(self._run, name="fetch small files")

    async def _run(self) -> None:
        try:
            process = await trio.lowlevel.open_process(
                command(carrying),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                **surroundings(),
            )
        except OSError as error:
            self._is_running = False
            self._under_way.update(order.number for order in self._to_send)
            self._to_send = []
            self._fail(f"can't start the process that fetches small files: {error.strerror}")
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, process, nursery.cancel_scope)
                await self._write(process)
                nursery.cancel_scope.cancel()
        finally:
            process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S):
                await process.wait()
                if process.stdin is not None and process.stdout is not None:
                    await process.stdin.aclose()
                    await process.stdout.aclose()
            self._is_running = False
        self._fail("the process that fetches small files has ended: is there enough memory?")
        if self._to_send:
            # They came while it ended.
            self._start()

    async def _write(self, process: trio.Process) -> None:
        assert process.stdin is not None
        try:
            await process.stdin.send_all(msgspec.json.encode(self._setup) + b"\n")
            while True:
                with trio.move_on_after(IDLE_S) as idle:
                    await self._has_more.wait()
                if idle.cancelled_caught and not (self._under_way or self._to_send):
                    return
                self._has_more = trio.Event()
                orders, self._to_send = self._to_send, []
                if orders:
                    self._under_way.update(order.number for order in orders)
                    await process.stdin.send_all(msgspec.json.encode(orders) + b"\n")
        except trio.BrokenResourceError:
            # It has ended: the one who reads from it knows.
            await trio.sleep_forever()

    async def _read(self, process: trio.Process, scope: trio.CancelScope) -> None:
        assert process.stdout is not None
        decoder = msgspec.json.Decoder(Carried)
        rest = b""
        async for piece in process.stdout:
            *lines, rest = (rest + piece).split(b"\n")
            carried = [decoder.decode(line) for line in lines]
            self._under_way.difference_update(one.number for one in carried)
            self._on_carried([(one.number, _error_of(one)) for one in carried])
        scope.cancel()

    def _fail(self, why: str) -> None:
        """Give up what is under way: nobody carries it out any more."""
        failed, self._under_way = self._under_way, set()
        if failed:
            log.warning("%s", why)
            self._on_carried([(number, RemoteError(why)) for number in failed])


def _error_of(carried: Carried) -> WbfsError | None:
    return error_of(carried.error, carried.text) if carried.error else None

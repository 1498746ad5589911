"""A link as to a server far away: a TCP proxy on loopback with a round-trip time and a rate.

Each direction is delayed by half of the round-trip time, a new connection by a whole one more, as
its handshake would take, and each connection brings its client so many bytes a second. What it does
not have is TCP's slow start, loss, and a limit of all connections together.

It is a process of its own: `bench_link.py CONTROL LISTEN:TARGET...`, all of them loopback ports. A
connection to the control port is answered with what was carried so far, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import sys
from dataclasses import asdict, dataclass

ROUND_TRIP_S = 0.020
BYTES_PER_S = 50e6
PIECE_BYTES = 256 << 10
PIECES_UNDER_WAY = 8
"""With their size, more than what half a round trip takes at that rate."""
LATE_S = 0.0008
"""How much later than asked for a piece is passed on, as measured."""
HOST = "127.0.0.1"


@dataclass(slots=True)
class Carried:
    """What came to clients so far: bytes of all connections, and how many those were."""

    bytes: int = 0
    connections: int = 0


class Link:
    """Forwards connections, and counts."""

    def __init__(self) -> None:
        self._carried = Carried()
        self._forwarding: set[asyncio.Task[None]] = set()

    async def listen(self, port: int, target: int) -> None:
        """Forward what connects to `port` to `target`, until it is cancelled."""
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, port), backlog=256) as listening:
            listening.setblocking(False)
            while True:
                client, _ = await loop.sock_accept(listening)
                task = asyncio.create_task(self._forward(client, target))
                self._forwarding.add(task)
                task.add_done_callback(self._forwarding.discard)

    async def tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a connection to the control port."""
        writer.write(json.dumps(asdict(self._carried)).encode())
        writer.close()

    async def _forward(self, client: socket.socket, target: int) -> None:
        loop = asyncio.get_running_loop()
        opened = loop.time() + ROUND_TRIP_S
        self._carried.connections += 1
        with client, socket.socket() as server:
            for end in (client, server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # An end that is gone takes the other along.
            try:
                await loop.sock_connect(server, (HOST, target))
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(self._carry(client, server, opened, down=False))
                    directions.create_task(self._carry(server, client, opened, down=True))
            except* OSError:
                pass

    async def _carry(
        self, source: socket.socket, target: socket.socket, opened: float, *, down: bool
    ) -> None:
        """Pass one direction's bytes on until their end."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_UNDER_WAY)

        async def receive() -> None:
            piece = b"-"
            while piece:
                piece = await loop.sock_recv(source, PIECE_BYTES)
                await under_way.put((max(loop.time(), opened) + ROUND_TRIP_S / 2, piece))

        async with asyncio.TaskGroup() as group:
            group.create_task(receive())
            arrival = 0.0
            while True:
                earliest, piece = await under_way.get()
                arrival = max(arrival, earliest) + (len(piece) / BYTES_PER_S if down else 0)
                await asyncio.sleep(arrival - LATE_S - loop.time())
                if not piece:
                    target.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(target, piece)
                if down:
                    self._carried.bytes += len(piece)


async def main() -> None:
    """Run the link that the command line describes, until the process is ended."""
    control, *forwards = sys.argv[1:]
    link = Link()
    async with asyncio.TaskGroup() as group:
        await asyncio.start_server(link.tell, HOST, int(control))
        for forward in forwards:
            port, target = forward.split(":")
            group.create_task(link.listen(int(port), int(target)))


if __name__ == "__main__":
    # epoll rounds every wait up to whole milliseconds, twice a round trip; select does not.
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(main())

"""Answers' bodies in large pieces, read from the connection's own socket. Blocking code.

http.client reads through a buffered file: of TLS that brings one record of 16 KiB a call, at 320
MB/s in one thread, and 175 in four, which fight over Python's lock once a record. Once the headers
are read, nothing but the body comes, so that the socket is read itself: whatever is there already,
into one buffer, by one thread at a time where it is to be decrypted (740 MB/s).

What is framed in another way, a body in chunks or one that ends with its connection, and what was
compressed on the way, goes by http.client.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from wbfs.remote.http.trust import Trust, TrustingAdapter

Piece = bytes | memoryview
"""Some bytes of a body, which whoever takes them has done with before the next are asked for."""

GATHER_S = 0.003
"""Seconds for which a piece that has begun waits for more: each one costs a write, and wakes the
trio thread."""


class DirectAnswer(http.client.HTTPResponse):
    """An answer whose `read1` gives a piece that is valid until the next one is asked for."""

    def __init__(self, sock: socket.socket, *args: Any, turn: Lock, **kwargs: Any) -> None:
        """Threads that decrypt do so one after another, in `turn`."""
        super().__init__(sock, *args, **kwargs)
        self._sock = sock
        is_tls = isinstance(sock, ssl.SSLSocket)
        self._turn: AbstractContextManager[Any] = turn if is_tls else nullcontext()
        self._past_buffer = False
        self._room = memoryview(b"")

    def read1(self, n: int = -1) -> bytes:
        """Return up to `n` bytes: what is there, or comes within a moment. Raises OSError."""
        if not self._is_direct or not self.length or n <= 0:
            return super().read1(n)
        size = min(n, self.length)
        begun = b""
        if not self._past_buffer:
            # The bytes that came along with the headers are in the buffer, and no others.
            begun = super().read1(size)
            self._past_buffer = len(begun) < size
            if not self._past_buffer or not begun:
                return begun
        if len(self._room) < size:
            self._room = memoryview(bytearray(size))
        piece = self._room[:size]
        piece[: len(begun)] = begun
        count = self._fill(piece, len(begun))
        self.length -= count - len(begun)
        if not count:
            # The connection broke: the answer is over, before its end.
            self.close()
        # As good as bytes for whoever writes it down, or hashes it, before the next one.
        return piece[:count]  # type: ignore[return-value]

    @property
    def _is_direct(self) -> bool:
        # Not TLS within TLS, as through a proxy: urllib3 has a socket of its own for that.
        is_known = type(self._sock) in (socket.socket, ssl.SSLSocket)
        return is_known and not self.chunked and self.getheader("Content-Encoding") is None

    def _fill(self, piece: memoryview, count: int) -> int:
        """Fill a piece of which `count` bytes are there; return how many are at the end.

        Those are none where the connection has ended. Raises OSError.
        """
        timeout_s = self._sock.gettimeout()
        assert timeout_s is not None
        # However many bytes of a TLS record come, it is nothing until all have.
        give_up_s = time.monotonic() + (GATHER_S if count else timeout_s)
        self._sock.settimeout(0)
        try:
            while True:
                had_none = not count
                count, wanted = self._take(piece, count)
                if not wanted:
                    return count
                if had_none and count:
                    give_up_s = time.monotonic() + GATHER_S
                if not _becomes_ready(self._sock, wanted, give_up_s - time.monotonic()):
                    if not count:
                        raise TimeoutError("no byte came")
                    return count
        finally:
            self._sock.settimeout(timeout_s)

    def _take(self, piece: memoryview, count: int) -> tuple[int, int]:
        """Put what is there into a piece; return its bytes, and what poll is to wait for.

        That is 0 where it is full, or nothing more comes.
        """
        with self._turn:
            while count < len(piece):
                try:
                    more = self._sock.recv_into(piece[count:])
                except (BlockingIOError, ssl.SSLWantReadError):
                    return count, select.POLLIN
                except ssl.SSLWantWriteError:
                    return count, select.POLLOUT
                except OSError:
                    if count:
                        # What came before it is good; the next call finds it again.
                        break
                    raise
                if not more:
                    break
                count += more
        return count, 0


def _becomes_ready(sock: socket.socket, events: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, events)
    return bool(poll.poll(max(0.0, seconds) * 1000))


class DirectAdapter(TrustingAdapter):
    """What sends requests, over connections whose answers are `DirectAnswer`s."""

    def __init__(self, trust: Trust, *, connections: int, turn: Lock) -> None:
        """Be as a `TrustingAdapter` otherwise."""
        self._turn = turn
        self._direct_pools = self.pools(HTTPConnection, HTTPSConnection)
        super().__init__(trust, connections=connections)

    def pools(
        self, http_class: type[HTTPConnection], https_class: type[HTTPSConnection]
    ) -> dict[str, type[HTTPConnectionPool]]:
        """Return urllib3's pools, by scheme, with connections like those of the two classes."""
        answer = staticmethod(partial(DirectAnswer, turn=self._turn))
        members = {"response_class": answer}

        class Pool(HTTPConnectionPool):
            ConnectionCls = type("Connection", (http_class,), members)

        class TlsPool(HTTPSConnectionPool):
            ConnectionCls = type("TlsConnection", (https_class,), members)

        return {"http": Pool, "https": TlsPool}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the connections to servers direct."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._direct_pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make the connections by way of proxies direct, too, but for SOCKS."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._direct_pools
        return manager

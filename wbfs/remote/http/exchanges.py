"""One GET over a connection that is idle, without ever waiting: for who has many under way at once.

Of 0.87 ms of processor time that fetching a small file takes when each is waited for by a thread
of its own, threads that fight over Python's lock take a quarter, and half is what http.client and
urllib3 make of an answer. Nearly all answers are alike: all of the file, of a length that is known.
Those are read here; what is any different is `Unusual`, and for `Transport.request`.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final

from wbfs.remote.http.sending import Idle

HEAD_BYTES = 16 << 10
"""What an answer's head may have; also what one call takes at first, a record of TLS."""

_END: Final = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})(?: |$)")
_SIZE = re.compile(rb"[0-9]{1,18}")
_ANOTHER_FRAME = (b"transfer-encoding", b"content-encoding", b"content-range", b"trailer")
"""Headers of what is more than its bytes."""


class Unusual(Exception):
    """What came is not simply the file, or nothing comes: it is to be asked for otherwise.

    `status` is that of an answer which has another than 200, else 0.
    """

    def __init__(self, *, status: int = 0) -> None:
        super().__init__()
        self.status = status


class Exchange:
    """A request that was sent, and what has come of the answer's `size` bytes so far."""

    def __init__(self, idle: Idle, size: int, room: memoryview) -> None:
        """Ask over a connection, which is this exchange's until it has ended.

        `room` are HEAD_BYTES that all exchanges of one thread share. Raises Unusual.
        """
        self._idle = idle
        self._room = room
        self._head = b""
        self._body = memoryview(bytearray(size))
        self._count = 0
        self._is_body = False
        self._is_last = False
        try:
            self._sock = self._ready()
            self._send()
        except BaseException:
            idle.close()
            raise

    @property
    def server(self) -> str:
        """Who is asked."""
        return self._idle.server

    def fileno(self) -> int:
        """Return the descriptor that is readable when `go_on` has something to do."""
        return self._sock.fileno()

    def go_on(self) -> memoryview | None:
        """Take what is there; return the body once it is whole, and let go of the connection.

        Raises Unusual, and the connection is closed then.
        """
        try:
            if not self._is_body and not self._take_head():
                return None
            while self._count < len(self._body):
                count = self._receive(self._body[self._count :])
                if not count:
                    return None
                self._count += count
        except BaseException:
            self._idle.close()
            raise
        if self._is_last:
            self._idle.close()
        else:
            self._idle.give_back()
        return self._body

    def close(self) -> None:
        """Give it up."""
        self._idle.close()

    def _ready(self) -> socket.socket:
        """Return the connection's socket, on which nothing waits from now on. Raises Unusual."""
        sock = self._idle.connection.sock
        # Not TLS within TLS: urllib3 has a socket of its own for that.
        if type(sock) not in (socket.socket, ssl.SSLSocket):
            raise Unusual
        if sock.gettimeout() != 0:
            sock.settimeout(0)
        assert isinstance(sock, socket.socket)
        return sock

    def _send(self) -> None:
        server = self._idle.server.removesuffix(f":{self._idle.connection.default_port}")
        lines = [f"GET {self._idle.target} HTTP/1.1", f"Host: {server}"]
        lines += [f"{name}: {value}" for name, value in self._idle.headers.items()]
        try:
            request = "\r\n".join([*lines, "", ""]).encode("latin-1")
            if request.count(b"\n") != len(lines) + 1 or self._sock.send(request) != len(request):
                # A header that is two, or a server that reads nothing.
                raise Unusual
        except (OSError, ValueError) as error:
            raise Unusual from error

    def _receive(self, room: memoryview) -> int:
        """Return how many bytes were there, 0 where none are yet. Raises Unusual."""
        try:
            count = self._sock.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError):
            return 0
        except OSError as error:
            raise Unusual from error
        if not count:
            raise Unusual
        return count

    def _take_head(self) -> bool:
        """Return whether all of the head is there, and what came with it of the body is noted."""
        while True:
            count = self._receive(self._room)
            if not count:
                return False
            self._head += self._room[:count]
            head, end, body = self._head.partition(_END)
            if end:
                break
            if len(self._head) > HEAD_BYTES:
                raise Unusual
        self._is_last = is_last(head, size=len(self._body))
        if len(body) > len(self._body):
            raise Unusual
        self._body[: len(body)] = body
        self._count = len(body)
        self._head = b""
        self._is_body = True
        return True


def is_last(head: bytes, *, size: int) -> bool:
    """Return whether a connection ends with the answer that has that head.

    Raises Unusual unless the answer is `size` bytes, and no more to it.
    """
    first, *lines = head.split(b"\r\n")
    status = _STATUS.match(first)
    if status is None or status[1] != b"200":
        raise Unusual(status=int(status[1]) if status is not None else 0)
    length: bytes | None = None
    ends = False
    for line in lines:
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        # Spaces before the colon, or a line that goes on with the one before it.
        if not colon or name != name.strip() or name in _ANOTHER_FRAME:
            raise Unusual
        if name == b"content-length":
            if length not in (None, value):
                raise Unusual
            length = value
        elif name == b"connection" and value.lower() != b"keep-alive":
            ends = True
    if length is None or not _SIZE.fullmatch(length) or int(length) != size:
        raise Unusual
    return ends

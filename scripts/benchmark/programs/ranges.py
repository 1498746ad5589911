"""Processes that fetch ranges of a file over TLS into another file, and do nothing else."""

from __future__ import annotations

import os
import socket
import struct
from urllib.parse import urlsplit

from benchmark.programs.parts import PIECE_BYTES, WRITTEN_BYTES, connected

RANGE_BYTES = 4 << 20
HEAD_BYTES = 4096
PROGRESS = struct.Struct("QQ")
"""Where bytes begin and end that have come."""


def fetchers(
    url: str, ca_file: str, size: int, fd: int, count: int
) -> tuple[socket.socket, list[int]]:
    """Start so many processes, and return where they tell what has come, as PROGRESS.

    They write to the open file `fd`. Each waits until the other end of a pipe is closed; those are
    returned as well.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    go: list[int] = []
    for number in range(count):
        waiting, starting = os.pipe()
        if not os.fork():
            for inherited in (*go, starting):
                os.close(inherited)
            sock = connected(url, ca_file)
            os.read(waiting, 1)
            _fetch(sock, url, size, fd, theirs, range(number, -(-size // RANGE_BYTES), count))
            os._exit(0)
        os.close(waiting)
        go.append(starting)
    return ours, go


def _fetch(
    sock: socket.socket, url: str, size: int, fd: int, progress: socket.socket, numbers: range
) -> None:
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    piece = memoryview(bytearray(PIECE_BYTES))
    for number in numbers:
        start = number * RANGE_BYTES
        stop = min(size, start + RANGE_BYTES)
        sock.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Range: bytes={start}-{stop - 1}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(HEAD_BYTES)
            assert more, "the server closed the connection"
            head += more
        assert head.startswith(b"HTTP/1.1 206"), head[:64]
        body = head.partition(b"\r\n\r\n")[2]
        piece[: len(body)] = body
        have = len(body)
        while start < stop:
            wanted = min(PIECE_BYTES, stop - start)
            while have < wanted:
                count = sock.recv_into(piece[have:wanted])
                assert count, "the server closed the connection"
                have += count
            for at in range(0, have, WRITTEN_BYTES):
                os.pwrite(fd, piece[at : min(at + WRITTEN_BYTES, have)], start + at)
            progress.send(PROGRESS.pack(start, start + have))
            start += have
            have = 0

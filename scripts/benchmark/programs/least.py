"""The least that reads a file over the network through a mount and keeps it: no digest, no bounds.

Processes fetch it in ranges and write them to a file; a daemon serves what is there. What reads a
file so, in Python through pyfuse3, can't take less. It is a process of its own, `least.py URL CA
SIZE FILE MOUNTPOINT PROCESSES`, until it is unmounted; CA is empty for plain HTTP. Nothing is
fetched before the first read.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pyfuse3
import trio

from benchmark.programs.daemon import FOREVER_S, MAX_TASKS
from benchmark.programs.daemon import Operations as DoNothing
from benchmark.programs.ranges import PROGRESS, RANGE_BYTES, fetchers


class Operations(DoNothing):
    """Serves the one file of a folder from another one, once it is there."""

    def __init__(self, folder: Path, fd: int, size: int, go: list[int]) -> None:
        """`go` are pipes; the processes wait for the first read to close them."""
        super().__init__(folder)
        self._fd = fd
        self._size = size
        self._go = go
        self._stops: dict[int, int] = {}
        self._waiting: list[tuple[int, int, trio.Event]] = []
        (inode,) = self._children[1].values()
        served = self._attributes[inode]
        served.st_size = size
        served.st_mode = stat.S_IFREG | 0o444
        served.entry_timeout = served.attr_timeout = FOREVER_S

    def _is_there(self, start: int, stop: int) -> bool:
        while start < stop:
            number = start // RANGE_BYTES
            end = min((number + 1) * RANGE_BYTES, stop)
            if self._stops.get(number, 0) < end:
                return False
            start = end
        return True

    async def read(self, fh: int, off: int, size: int) -> bytes:
        while self._go:
            os.close(self._go.pop())
        stop = min(off + size, self._size)
        if not self._is_there(off, stop):
            arrived = trio.Event()
            self._waiting.append((off, stop, arrived))
            await arrived.wait()
        buffer = bytearray(stop - off)
        os.preadv(self._fd, [buffer], off)
        return buffer

    async def listen(self, progress: socket.socket) -> NoReturn:
        """Take note of what comes."""
        news = trio.socket.from_stdlib_socket(progress)
        while True:
            start, stop = PROGRESS.unpack(await news.recv(PROGRESS.size))
            self._stops[start // RANGE_BYTES] = stop
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                if self._is_there(*one[:2]):
                    one[2].set()
                else:
                    self._waiting.append(one)


def main() -> None:
    """Serve until it is unmounted."""
    url, ca_file, size_text, file, mountpoint, count_text = sys.argv[1:]
    size, count = int(size_text), int(count_text)
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, size)
    ours, go = fetchers(url, ca_file, size, fd, count)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, Path(urlsplit(url).path).name).touch()
        operations = Operations(Path(folder), fd, size, go)

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operations.listen, ours)
            await pyfuse3.main(max_tasks=MAX_TASKS)
            nursery.cancel_scope.cancel()

    pyfuse3.init(operations, mountpoint, {"default_permissions", "fsname=bench", "ro"})
    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()

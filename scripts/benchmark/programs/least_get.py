"""The least that downloads a file as `wbfs get` does: into a cache, checked, and to its place.

The server is asked which version it is, what is in it, and where the file is. Processes fetch it in
ranges and write them to a file; as far as it is there, this one takes the MD5 of it and writes it
once more, each in a thread. No bound is kept, no request made twice, and nothing waits for a mount.
It is a process of its own, with the environment of a W&B client,
`least_get.py ENTITY PROJECT ARTIFACT VERSION PATH CACHED TARGET PROCESSES`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import sys
import threading

from benchmark.programs.client import client, contents_of
from benchmark.programs.parts import WRITTEN_BYTES
from benchmark.programs.ranges import PROGRESS, RANGE_BYTES, fetchers


class Arrived:
    """How far the file is there, from its beginning on."""

    def __init__(self, size: int) -> None:
        self.stop = 0
        self._size = size
        self._more = threading.Condition()

    def listen(self, progress: socket.socket) -> None:
        """Take note of what comes, until all has."""
        stops: dict[int, int] = {}
        while self.stop < self._size:
            start, stop = PROGRESS.unpack(progress.recv(PROGRESS.size))
            stops[start // RANGE_BYTES] = stop
            with self._more:
                while stops.get(self.stop // RANGE_BYTES, 0) > self.stop:
                    self.stop = stops[self.stop // RANGE_BYTES]
                self._more.notify_all()

    def after(self, position: int) -> int:
        """Wait until more than that is there, and return how much is."""
        with self._more:
            self._more.wait_for(lambda: self.stop > position)
            return self.stop


def main() -> None:
    """Download the file. Exits with 1 where its digest is another one."""
    entity, project, artifact, name, path, cached, target, count = sys.argv[1:]
    api, _, deadline = client()
    version = api.version(entity, project, artifact, name, deadline=deadline)
    entry = contents_of(api, version, deadline)[path]
    url = api.file_urls(version, [path], deadline=deadline)[path]
    size: int = entry["size"]
    ca_file = os.environ.get("SSL_CERT_FILE", "")
    source, copy = (os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in (cached, target))
    os.ftruncate(source, size)
    progress, go = fetchers(url, ca_file, size, source, int(count))
    for pipe in go:
        os.close(pipe)
    arrived = Arrived(size)
    hasher = hashlib.md5(usedforsecurity=False)

    def digest() -> None:
        piece = memoryview(bytearray(WRITTEN_BYTES))
        position = 0
        while position < size:
            stop = arrived.after(position)
            while position < stop:
                wanted = min(WRITTEN_BYTES, stop - position)
                count = os.preadv(source, [piece[:wanted]], position)
                hasher.update(piece[:count])
                position += count

    def write() -> None:
        position = 0
        while position < size:
            stop = arrived.after(position)
            while position < stop:
                position += os.copy_file_range(source, copy, stop - position, position, position)

    threads = [threading.Thread(target=work) for work in (digest, write)]
    for thread in threads:
        thread.start()
    arrived.listen(progress)
    for thread in threads:
        thread.join()
    sys.exit(base64.b64encode(hasher.digest()).decode() != entry["digest"])


if __name__ == "__main__":
    main()

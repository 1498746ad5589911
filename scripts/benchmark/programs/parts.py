"""What one process does of reading a large file over TLS, each step alone; a process of its own.

The argument is a JSON object, as of `reader`: `how` names one of the functions below. What they
take of the processor is what is told, not how long it takes: the server has a share of that.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import ssl
import sys
from urllib.parse import urlsplit

PIECE_BYTES = 1 << 20
WRITTEN_BYTES = 256 << 10


def connected(url: str, ca_file: str) -> socket.socket:
    """Connect to a URL's server, with TLS where there is a CA."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    sock = socket.create_connection((parts.hostname, parts.port))
    if not ca_file:
        return sock
    context = ssl.create_default_context(cafile=ca_file)
    return context.wrap_socket(sock, server_hostname=parts.hostname)


def received(*, url: str, ca_file: str, file: str = "") -> int:
    """Receive all of a file, decrypt it, and write it to another file, if one is named."""
    parts = urlsplit(url)
    sock = connected(url, ca_file)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    sock.sendall(request.encode())
    fd = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600) if file else -1
    piece = memoryview(bytearray(PIECE_BYTES))
    total = have = 0
    while True:
        count = sock.recv_into(piece[have:])
        have += count
        if file and (have == PIECE_BYTES or not count):
            for at in range(0, have, WRITTEN_BYTES):
                os.write(fd, piece[at : min(at + WRITTEN_BYTES, have)])
        if have == PIECE_BYTES or not count:
            total += have
            have = 0
        if not count:
            return total


def digested(*, size: int) -> int:
    """Take the MD5 of so many bytes, which are in the processor's cache."""
    hasher = hashlib.md5(usedforsecurity=False)
    piece = bytes(PIECE_BYTES)
    for _ in range(size // PIECE_BYTES):
        hasher.update(piece)
    return size


def copied(*, source: str, file: str) -> int:
    """Copy a file, whose bytes are in memory, to another one."""
    from_fd, fd = os.open(source, os.O_RDONLY), os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    size = os.fstat(from_fd).st_size
    done = 0
    while done < size:
        done += os.copy_file_range(from_fd, fd, size - done)
    return done


def main() -> None:
    """Do what the argument says."""
    arguments = json.loads(sys.argv[1])
    steps = {"received": received, "digested": digested, "copied": copied}
    total = steps[arguments.pop("how")](**arguments)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": used.ru_utime + used.ru_stime, "bytes": total}))


if __name__ == "__main__":
    main()

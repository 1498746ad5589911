"""Ports for servers that have to be told theirs before they start, or that keep it for good."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES = 1000


def free_port() -> int:
    """Return a port that nobody listens on, nor will but who was given it.

    It is below those that the system gives out to whoever asks for none: what other tests start
    beside, and every connection, has one of these, perhaps before the server here has.
    """
    highest = int(RANGE.read_text().split()[0])
    for _ in range(TRIES):
        port = random.randrange(LOWEST, highest)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"there is no free port from {LOWEST} to {highest}")

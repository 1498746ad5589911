"""Ports for servers that have to be told theirs before they start, or that keep it for good."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES = 1000


def free_port() -> int:
    """Return a port that nobody listens on, nor is likely to but who was given it.

    It is none of those that the system gives out to whoever asks for none, unless it gives out all:
    what other tests start beside, and every connection, has one of these, perhaps before the server
    here has.
    """
    first, last = map(int, RANGE.read_text().split())
    others = [*range(LOWEST, first), *range(last + 1, 1 << 16)]
    for port in [*random.sample(others, min(TRIES, len(others))), 0]:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = one.getsockname()[1]
            return found
    raise AssertionError("there is no free port")

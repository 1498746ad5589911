"""Ports for servers that have to be told theirs before they start, or that keep it for good."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES = 1000


_kept: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody listens on, nor gets but who was given it, as long as this runs.

    It is none of those that the system gives out to whoever asks for none, unless it gives out all:
    what other tests start beside, and every connection, has one of these, perhaps before the server
    here has. It is kept from others who look for one here, be it at the same moment.
    """
    first, last = map(int, RANGE.read_text().split())
    others = [*range(LOWEST, first), *range(last + 1, 1 << 16)]
    for port in [*random.sample(others, min(TRIES, len(others))), 0]:
        one = socket.socket()
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            one.close()
            continue
        # Who does so before binding may listen there all the same, as servers do.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _kept.append(one)
        found: int = one.getsockname()[1]
        return found
    raise AssertionError("there is no free port")

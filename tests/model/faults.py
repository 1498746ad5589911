"""What is done to the server and the mounts, and which errors that may cause."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Cause = int | str
"""An errno, or the name of a signal that a mapped page which can't be read ends a process by."""

NO_ERRORS: frozenset[Cause] = frozenset()
LATE: frozenset[Cause] = frozenset({errno.ETIMEDOUT, errno.EIO, "SIGBUS"})
"""Of a server that fails or is silent. Not ENOENT: names never vanish by an outage."""
REFUSED: frozenset[Cause] = LATE | {errno.EACCES}
NOT_MOUNTED: frozenset[Cause] = frozenset(
    {errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT, errno.EIO, "SIGBUS"}
)
"""Of a mount whose daemon was killed or that was taken down, until it is there again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Switches of the stand-in server, the errors that they may cause, and whether bytes lie.

    Where bytes lie, a large file's may be wrong until it was checked and opened again. Where any
    come, be it slowly or a few at a time, a read goes on for as long as they do.
    """

    settings: Mapping[str, Any]
    causes: frozenset[Cause]
    lies: bool = False
    brings_some: bool = True


def _both_ports(
    name: str,
    settings: Mapping[str, Any],
    causes: frozenset[Cause],
    *,
    brings_some: bool = True,
) -> dict[str, Fault]:
    return {
        f"{name} ({port})": Fault({**settings, "port": port}, causes, brings_some=brings_some)
        for port in ("api", "files")
    }


FAULTS: Mapping[str, Fault] = {
    **_both_ports("a third fail", {"error_share": 0.3}, LATE),
    **_both_ports("all fail", {"error_share": 1.0, "error_status": 503}, LATE, brings_some=False),
    **_both_ports("the first three fail", {"error_share": 1.0, "first": 3}, NO_ERRORS),
    **_both_ports("cut after 10 kB", {"cut_after_bytes": 10_000}, LATE),
    **_both_ports("delay", {"delay_s": 0.2}, NO_ERRORS),
    **_both_ports("stall", {"stall": True}, LATE, brings_some=False),
    **_both_ports("stall in the middle", {"stall_after_bytes": 3_000}, LATE),
    **_both_ports("20 requests/s", {"requests_per_s": 20}, LATE),
    "cut after 2 MB": Fault({"port": "files", "cut_after_bytes": 2_000_000}, LATE),
    "stall after 1 MB": Fault({"port": "files", "stall_after_bytes": 1_000_000}, LATE),
    "3 MB/s": Fault({"port": "files", "bandwidth_bytes_per_s": 3_000_000}, LATE),
    "revoked URLs": Fault({"port": "files", "revoked_urls": True}, NO_ERRORS),
    "expired URLs": Fault({"port": "files", "expired_urls": True}, REFUSED),
    "short-lived URLs": Fault({"port": "files", "url_lifetime_s": 1.0}, REFUSED),
    "wrong answers": Fault({"port": "api", "wrong_bytes": True}, LATE),
    "wrong bytes": Fault({"port": "files", "wrong_bytes": True}, LATE, lies=True),
    "wrong bytes once": Fault({"port": "files", "wrong_bytes": True, "first": 1}, LATE, lies=True),
}

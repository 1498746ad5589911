"""What a mount can be told, with every default and its unit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ALIAS_TTL_S = 60.0
"""Seconds that an alias, or a listing above a version, is taken as the server last gave it."""

TIMEOUT_S = 60.0
"""Seconds that one operation may wait for the server, retries included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSettings:
    """One mount: what is shown, where, and how.

    `umask` is taken from 0444 and 0555. Times are in seconds.
    """

    source: str
    mountpoint: Path
    cache_dir: Path
    log_file: Path | None
    alias_ttl_s: float = ALIAS_TTL_S
    timeout_s: float = TIMEOUT_S
    pin: bool = False
    uid: int
    gid: int
    umask: int = 0
    allow_other: bool = False

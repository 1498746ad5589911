"""What a mount can be told, with every default and its unit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wbfs.model.locks import Locked

ALIAS_TTL_S = 60.0
"""Seconds that an alias, or a listing above a version, is taken as the server last gave it."""

TIMEOUT_S = 60.0
"""Seconds that one operation may wait for the server, retries included."""

MIN_FREE_BYTES = 1 << 30
"""Bytes that the cache leaves free on its disk."""

AUTO_RUN = "auto"
"""What stands for each reader's own run, where a run is named."""

MANIFEST_LIMIT_BYTES = 4 << 30
"""Bytes that a version's manifest may have: as many files as wbfs shows of one, and more."""

METRICS_ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How the server is asked and where what it gives is kept.

    `sdk_cache_dir` is the wandb SDK's own cache directory. Times are in seconds, sizes in bytes; a
    `cache_size` of None is no limit. With `offline` no request is made at all. With `verify_always`
    no byte of a large file is served before its digest was checked, as of small ones.
    With `as_of` artifacts have the versions and aliases of that moment, which has a zone.
    `blob_gateway` is the URL of a cache that W&B's own files are asked for at first, or empty; with
    `trust_gateway` that holds for what comes from there too, which else is checked first.
    `private_references` is whether manifests' URLs may lead to loopback and private addresses,
    `file_references` whether they may name files of this machine.
    """

    cache_dir: Path
    sdk_cache_dir: Path
    cache_size: int | None = None
    min_free: int = MIN_FREE_BYTES
    alias_ttl_s: float = ALIAS_TTL_S
    timeout_s: float = TIMEOUT_S
    manifest_limit: int = MANIFEST_LIMIT_BYTES
    pin: bool = False
    as_of: datetime | None = None
    offline: bool = False
    verify_always: bool = False
    blob_gateway: str = ""
    trust_gateway: bool = False
    private_references: bool = True
    file_references: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSettings(SessionSettings):
    """One mount: what is shown, where, and how.

    Of each version those entries are shown whose path starts with `path_prefix`. `umask` is taken
    from 0444 and 0555. An alias that is one of `locks` is the version that it is locked to. Metrics
    are told at `metrics_port`, if any. `run` is the run that has what is read as its input,
    `AUTO_RUN` for each reader's own, or empty for none. The mountpoint is made where `make_dir`
    says so; with a `descriptor` it is a name only, and somebody else has mounted.
    """

    source: str
    path_prefix: str = ""
    locks: tuple[Locked, ...] = ()
    metrics_address: str = METRICS_ADDRESS
    metrics_port: int | None = None
    mountpoint: Path
    log_file: Path | None
    uid: int
    gid: int
    umask: int = 0
    allow_other: bool = False
    run: str = ""
    make_dir: bool = False
    descriptor: int | None = None

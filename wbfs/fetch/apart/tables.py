"""Makes a manifest's JSON into its table: here, or in a process apart.

For a million files that takes hundreds of megabytes, which the system gets back from a process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wbfs.fetch.apart.worker import Program
from wbfs.remote.api.manifests import Manifest
from wbfs.store.known.manifest_writer import fill_in_sizes, write_table

MEMORY_BYTES = 8 << 30
"""What the files of a version take at the most, of as many as wbfs shows."""
SILENT_S = 30.0
"""While JSON of hundreds of megabytes is decoded no other thread has its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """Write the table of the manifest that is in the file `manifest`."""

    manifest: Path
    table: Path
    version_path: str
    artifact: str
    digest: str
    digest_algorithm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FillIn:
    """Give a table the sizes of other artifacts' files, whose tables are given by artifact id."""

    table: Path
    targets: dict[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Whether the manifest hashes to the version's digest."""

    digest_matches: bool = True


def obey(order: Build | FillIn) -> Done:
    """Do what is ordered. Raises RemoteProtocolError, StoreError, StoreFull."""
    if isinstance(order, FillIn):
        fill_in_sizes(order.table, order.targets)
        return Done()
    manifest = Manifest(
        _mapped(order.manifest),
        digest=order.digest,
        digest_algorithm=order.digest_algorithm,
        what=order.version_path,
    )
    write_table(
        order.table,
        order.version_path,
        order.artifact,
        manifest.paths,
        manifest.row,
        manifest.left_out,
    )
    return Done(digest_matches=manifest.digest_matches)


def _mapped(path: Path) -> bytes | mmap.mmap:
    # What is mapped needs no memory that the kernel couldn't take back; nothing can't be mapped.
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if size else b""


def prepare(memory: int = MEMORY_BYTES) -> Callable[[Build | FillIn], Done]:
    """Return what obeys an order in a process, which takes no more than that many bytes."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    # Where there is less, this process is to be ended and no other.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    return obey


def abandon(order: Build | FillIn) -> None:
    """Remove the table that nobody waits for any more."""
    order.table.unlink(missing_ok=True)


PROGRAM = Program(name="manifests", prepare=prepare, abandon=abandon, silent_s=SILENT_S)

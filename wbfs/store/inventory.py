"""What a cache has, for people: totals, versions, and whether the bytes are still right.

Nothing of it is needed to mount. Blocking code that reads the whole cache directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbfs.model.digests import Algorithm, new_hasher
from wbfs.model.errors import StoreError
from wbfs.store.blobs import Blobs
from wbfs.store.eviction import BLOCK_BYTES, cached_files
from wbfs.store.manifests import ManifestTable

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How many files of each kind there are, and their sizes on disk in bytes."""

    blobs: int
    blob_bytes: int
    manifests: int
    manifest_bytes: int
    partial: int
    partial_bytes: int
    disk_free_bytes: int


def summary(cache_dir: Path) -> Summary:
    """Count a cache's files. Raises StoreError where there is no cache."""
    disk = _disk(cache_dir)
    files = list(cached_files(cache_dir))
    blobs = [file.size for file in files if file.path.is_relative_to(cache_dir / "blobs")]
    partial = []
    with contextlib.suppress(FileNotFoundError):
        for path in (cache_dir / "partial").iterdir():
            with contextlib.suppress(FileNotFoundError):
                partial.append(path.stat().st_blocks * BLOCK_BYTES)
    return Summary(
        blobs=len(blobs),
        blob_bytes=sum(blobs),
        manifests=len(files) - len(blobs),
        manifest_bytes=sum(file.size for file in files) - sum(blobs),
        partial=len(partial),
        partial_bytes=sum(partial),
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
    )


def _disk(cache_dir: Path) -> os.statvfs_result:
    try:
        return os.statvfs(cache_dir)
    except OSError as error:
        raise StoreError(f"there is no cache at {cache_dir}: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedVersion:
    """A version whose manifest is cached, and how much of its files is; bytes are content's."""

    path: str
    files: int
    bytes: int
    cached_files: int
    cached_bytes: int


def cached_versions(cache_dir: Path) -> Iterator[CachedVersion]:
    """Yield the versions whose manifests are cached. Raises StoreError where there is no cache."""
    _disk(cache_dir)
    blobs = Blobs(cache_dir)
    for path in (cache_dir / "manifests").rglob("*.sqlite"):
        # Evicted meanwhile, or of another version of wbfs.
        with contextlib.suppress(FileNotFoundError, StoreError):
            table = ManifestTable(path)
            try:
                yield _cached_version(table, blobs)
            finally:
                table.close()


def _cached_version(table: ManifestTable, blobs: Blobs) -> CachedVersion:
    files = total = cached = cached_bytes = 0
    for entry in table.entries():
        size = entry.size or 0
        files += 1
        total += size
        if blobs.path(entry.blob).exists():
            cached += 1
            cached_bytes += size
    return CachedVersion(
        path=table.version_path,
        files=files,
        bytes=total,
        cached_files=cached,
        cached_bytes=cached_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What reading every blob has shown; `unknown` blobs have no digest to check them by."""

    good: int
    good_bytes: int
    unknown: int
    damaged: tuple[str, ...]


def verify(cache_dir: Path) -> Verified:
    """Hash every blob, and remove those that are not what their name says. Raises StoreError."""
    _disk(cache_dir)
    good = good_bytes = unknown = 0
    damaged = []
    for cached in cached_files(cache_dir):
        if not cached.path.is_relative_to(cache_dir / "blobs"):
            continue
        algorithm, _, expected = cached.path.name.partition("-")
        if algorithm not in set(Algorithm):
            unknown += 1
            continue
        try:
            found = _digest_of(cached.path, Algorithm(algorithm))
        except FileNotFoundError:
            continue
        if found == expected:
            good += 1
            good_bytes += cached.size
        else:
            cached.path.unlink(missing_ok=True)
            damaged.append(cached.path.name)
    return Verified(good=good, good_bytes=good_bytes, unknown=unknown, damaged=tuple(damaged))


def _digest_of(path: Path, algorithm: Algorithm) -> str:
    """Return a file's digest, or the empty text where the disk can't read it any more."""
    hasher = new_hasher(algorithm)
    with path.open("rb", buffering=0) as file:
        try:
            while piece := file.read(PIECE_BYTES):
                hasher.update(piece)
        except OSError:
            return ""
    return hasher.hexdigest()

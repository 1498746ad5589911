"""What a cache has, for people: totals, versions, and whether the bytes are still right.

Nothing of it is needed to mount. Blocking code that reads the whole cache directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbfs.model.digests import Algorithm
from wbfs.model.errors import StoreError
from wbfs.store.bounds.eviction import cached_files
from wbfs.store.content.blobs import blob_path
from wbfs.store.content.hashing import digest_of
from wbfs.store.folder import free_bytes, open_file
from wbfs.store.known.catalog import catalog_path
from wbfs.store.known.manifest_table import ManifestTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How many files of each kind there are, and their sizes on disk in bytes."""

    blobs: int
    blob_bytes: int
    manifests: int
    manifest_bytes: int
    partial: int
    partial_bytes: int
    catalog_bytes: int
    disk_free_bytes: int | None


def summary(cache_dir: Path) -> Summary:
    """Count a cache's files. Raises StoreError where there is no cache."""
    disk = _disk(cache_dir)
    sizes: dict[str, list[int]] = {"blobs": [], "manifests": [], "partial": []}
    for file in cached_files(cache_dir):
        sizes[file.path.relative_to(cache_dir).parts[0]].append(file.size)
    return Summary(
        blobs=len(sizes["blobs"]),
        blob_bytes=sum(sizes["blobs"]),
        manifests=len(sizes["manifests"]),
        manifest_bytes=sum(sizes["manifests"]),
        partial=len(sizes["partial"]),
        partial_bytes=sum(sizes["partial"]),
        catalog_bytes=_size_of(catalog_path(cache_dir)),
        disk_free_bytes=free_bytes(disk) if disk.f_blocks else None,
    )


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


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
    for path in (cache_dir / "manifests").rglob("*.sqlite"):
        # Evicted meanwhile, damaged, or of another version of wbfs.
        with contextlib.suppress(OSError, StoreError):
            table = ManifestTable(path)
            try:
                yield _cached_version(table, cache_dir)
            finally:
                table.close()


def _cached_version(table: ManifestTable, cache_dir: Path) -> CachedVersion:
    files = total = cached = cached_bytes = 0
    for entry in table.entries():
        size = entry.size or 0
        files += 1
        total += size
        if blob_path(cache_dir, entry.blob).exists():
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
    fd = open_file(path)
    try:
        return digest_of(fd, algorithm, checkpoint=lambda: None)
    except OSError:
        return ""
    finally:
        os.close(fd)

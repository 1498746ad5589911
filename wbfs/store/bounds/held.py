"""What a cache, and the wandb SDK's beside it, have of one version's files. Blocking code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbfs.model.entries import Entry
from wbfs.model.errors import StoreError
from wbfs.store.content.blobs import blob_path
from wbfs.store.content.marks import BLOCK_BYTES
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.known.manifest_table import ManifestTable
from wbfs.store.known.manifests import table_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What there is of a file: where it is or would be, sealed or so many bytes in part."""

    entry: Entry
    path: Path
    is_sealed: bool
    partial_bytes: int
    is_with_sdk: bool


class Holdings:
    """What there is of a version; `close` it."""

    def __init__(self, table: ManifestTable, cache_dir: Path, sdk_cache_dir: Path) -> None:
        self._table = table
        self._cache_dir = cache_dir
        self._sdk_cache = SdkCache(sdk_cache_dir)
        self._partial = _names(cache_dir / "partial")

    def of_file(self, path: str) -> Held | None:
        """Return what there is of the file at `path`; None where the version has none."""
        entry = self._table.entry(path)
        return None if entry is None else self._of(entry)

    def below(self, path: str) -> Iterator[Held]:
        """Yield what there is of each file below the folder at `path`, empty for all of them."""
        return map(self._of, self._table.entries_below(path))

    def close(self) -> None:
        """Let the manifest be evicted."""
        self._table.close()

    def _of(self, entry: Entry) -> Held:
        blob = entry.blob
        sealed = blob_path(self._cache_dir, blob)
        is_sealed = sealed.exists()
        descriptor = None if is_sealed else self._sdk_cache.open(blob)
        if descriptor is not None:
            os.close(descriptor)
        return Held(
            entry=entry,
            path=sealed,
            is_sealed=is_sealed,
            partial_bytes=self._in_part(blob.key) if blob.key in self._partial else 0,
            is_with_sdk=descriptor is not None,
        )

    def _in_part(self, key: str) -> int:
        try:
            return (self._cache_dir / "partial" / key).lstat().st_blocks * BLOCK_BYTES
        except FileNotFoundError:
            # It was sealed meanwhile, or removed.
            return 0


def holdings(
    cache_dir: Path, sdk_cache_dir: Path, server: str, artifact_id: str
) -> Holdings | None:
    """Return what the caches have of a server's version; None where its manifest isn't there."""
    try:
        table = ManifestTable(table_path(cache_dir, server, artifact_id))
    except (OSError, StoreError):
        return None
    return Holdings(table, cache_dir, sdk_cache_dir)


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()

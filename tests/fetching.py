"""What fetches work with, for tests without a mount: a store of their own and scripted sources."""

from __future__ import annotations

from pathlib import Path

from wbfs.fetch.apart.small_files import Setup
from wbfs.fetch.background import Background
from wbfs.fetch.counters import Counters
from wbfs.fetch.offload import Offload
from wbfs.fetch.resources import Resources
from wbfs.fetch.room import Room
from wbfs.fetch.writeback import Writeback
from wbfs.model.entries import Entry
from wbfs.store.blobs import Blobs
from wbfs.store.eviction import Bounds
from wbfs.store.manifests import File
from wbfs.store.partial import PartialBlobs
from wbfs.store.sdk_cache import SdkCache


def resources(
    background: Background, cache_dir: Path, sources: object, *, timeout_s: float
) -> Resources:
    """Return resources whose bytes come from `sources`, which has `open` as `Sources` has."""
    offload = Offload()
    counters = Counters()
    sdk_cache = SdkCache(cache_dir / "sdk")
    blobs = Blobs(cache_dir, sdk_cache, file_mode=0o600)
    return Resources(
        background=background,
        offload=offload,
        sources=sources,  # type: ignore[arg-type]
        blobs=blobs,
        partial=PartialBlobs(cache_dir, blobs),
        room=Room(
            background=background,
            offload=offload,
            cache_dir=cache_dir,
            sdk_cache=sdk_cache,
            bounds=Bounds(limit=None, min_free=None),
            counters=counters,
        ),
        writeback=Writeback(background=background, offload=offload, blobs=blobs),
        timeout_s=timeout_s,
        setup=Setup(
            cache_dir=str(cache_dir),
            sdk_cache_dir=str(cache_dir / "sdk"),
            file_mode=0o600,
            extra_headers={},
            proxies={},
            verify=True,
            timeout_s=timeout_s,
        ),
        counters=counters,
    )


def file_of(entry: Entry) -> File:
    """Return the entry as the only file of its version."""
    return File(id=0, folder=0, name=entry.path, entry=entry)

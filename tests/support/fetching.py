"""What fetches work with, for tests without a mount: a store of their own and scripted sources."""

from __future__ import annotations

from pathlib import Path

from wbfs.fetch.apart.carriers import Carriers
from wbfs.fetch.apart.small_files import Setup
from wbfs.fetch.apart.spares import Spares
from wbfs.fetch.counters import Counters
from wbfs.fetch.resources import Resources
from wbfs.fetch.work.background import Background
from wbfs.fetch.work.offload import Offload
from wbfs.fetch.writeback import Writeback
from wbfs.model.entries import Entry
from wbfs.store.bounds.eviction import Bounds
from wbfs.store.bounds.room import Room
from wbfs.store.content.blobs import Blobs
from wbfs.store.content.partial import PartialBlobs
from wbfs.store.content.sdk_cache import SdkCache
from wbfs.store.known.manifest_table import File
from wbfs.store.known.manifests import Manifests
from wbfs.store.known.sizes import KnownSizes


def unbounded(cache_dir: Path, sdk_cache: SdkCache) -> Room:
    """Return the room of a cache without bounds."""
    return Room(cache_dir, sdk_cache, Bounds(limit=None, min_free=None))


def new_manifests(cache_dir: Path, server: str) -> Manifests:
    """Return the manifests of a cache without bounds."""
    return Manifests(cache_dir, server, unbounded(cache_dir, SdkCache(cache_dir / "sdk")))


def resources(
    background: Background, cache_dir: Path, sources: object, *, timeout_s: float
) -> Resources:
    """Return resources whose bytes come from `sources`, which has `open` as `Sources` has."""
    offload = Offload()
    counters = Counters()
    sdk_cache = SdkCache(cache_dir / "sdk")
    room = unbounded(cache_dir, sdk_cache)
    blobs = Blobs(cache_dir, sdk_cache, room=room, file_mode=0o600)
    setup = Setup(
        cache_dir=str(cache_dir),
        cache_size=None,
        min_free=None,
        sdk_cache_dir=str(cache_dir / "sdk"),
        file_mode=0o600,
        server="",
        extra_headers={},
        proxies={},
        verify=True,
        private_references=True,
        file_references=True,
        blob_gateway="",
        timeout_s=timeout_s,
    )
    return Resources(
        background=background,
        offload=offload,
        sources=sources,  # type: ignore[arg-type]
        blobs=blobs,
        partial=PartialBlobs(cache_dir, blobs),
        room=room,
        known_sizes=KnownSizes(cache_dir),
        writeback=Writeback(background=background, offload=offload, blobs=blobs),
        timeout_s=timeout_s,
        setup=setup,
        counters=counters,
        carriers=Carriers(background, setup, Spares()),
        spares=Spares(),
    )


def file_of(entry: Entry) -> File:
    """Return the entry as the only file of its version."""
    return File(id=0, folder=0, name=entry.path, entry=entry)

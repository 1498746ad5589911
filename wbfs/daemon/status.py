"""`.wbfs/status.json`: what is mounted, with which settings, and how it goes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from wbfs import __version__
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.offload import Offload
from wbfs.fetch.room import Room
from wbfs.model.entries import Viewer
from wbfs.model.settings import MountSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `render` tells; the rest it asks for when it is called."""

    settings: MountSettings
    server: str
    viewer: Viewer
    started_at: str
    fetcher: Fetcher
    offload: Offload
    room: Room
    requests: Mapping[str, int]

    def render(self) -> bytes:
        """Return the status as JSON. It holds no key and no signed URL."""
        settings = self.settings
        status = {
            "version": __version__,
            "pid": os.getpid(),
            "mountpoint": str(settings.mountpoint),
            "source": settings.source,
            "server": self.server,
            "user": self.viewer.username,
            "started_at": self.started_at,
            "cache": {
                "dir": str(settings.cache_dir),
                "used_bytes": self.room.used,
                "limit_bytes": self.room.bounds.limit,
                "min_free_bytes": self.room.bounds.min_free,
            },
            "log_file": str(settings.log_file) if settings.log_file else None,
            "alias_ttl_s": settings.alias_ttl_s,
            "timeout_s": settings.timeout_s,
            "pin": settings.pin,
            "requests": dict(self.requests),
            "fetched": asdict(self.fetcher.counters) | {"in_progress": self.fetcher.fetching},
            "busy_threads": self.offload.busy(),
            "left_out": {
                artifact_id: {"count": table.left_out.count, "report": table.left_out.report}
                for artifact_id, table in self.fetcher.open_manifests().items()
                if table.left_out.count
            },
        }
        return json.dumps(status, indent=2).encode() + b"\n"

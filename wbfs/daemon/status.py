"""`.wbfs/status.json`: what is mounted, with which settings, and how it goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wbfs import __version__
from wbfs.daemon.fuse.kernel import Kernel
from wbfs.daemon.lineage.recorder import Recorder
from wbfs.daemon.mounts.records import pid_namespace
from wbfs.daemon.session import Session
from wbfs.fs.control import CONTROL_NAME, WHY_LEFT_OUT, ErrorLog, LeftOut
from wbfs.fs.under_way import UnderWay
from wbfs.model.settings import MountSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `render` tells; the rest it asks for when it is called."""

    settings: MountSettings
    session: Session
    kernel: Kernel
    recorder: Recorder
    started_at: str
    requests: Mapping[str, int]
    under_way: UnderWay
    left_out: LeftOut
    errors: ErrorLog

    def render(self) -> bytes:
        """Return the status as JSON. It holds no key and no signed URL."""
        settings, session = self.settings, self.session
        outage = session.names.outage
        status = {
            "version": __version__,
            "pid": os.getpid(),
            "pids": pid_namespace(),
            "mountpoint": str(settings.mountpoint),
            "device": self.kernel.device,
            "source": settings.source,
            "path_prefix": settings.path_prefix,
            "server": session.credentials.base_url,
            "user": session.viewer.username,
            "offline": settings.offline,
            "server_lost_since": outage.since.isoformat(timespec="seconds") if outage else None,
            "started_at": self.started_at,
            # For rates: the answer may take its time.
            "at_s": time.monotonic(),
            "cache": {
                "dir": str(settings.cache_dir),
                "state": session.room.state,
                "trouble": session.room.trouble,
                "used_bytes": session.room.used,
                "limit_bytes": session.room.bounds.limit,
                "min_free_bytes": session.room.bounds.min_free,
            },
            "log_file": str(settings.log_file) if settings.log_file else None,
            "alias_ttl_s": settings.alias_ttl_s,
            "timeout_s": settings.timeout_s,
            "pin": settings.pin,
            "as_of": settings.as_of.isoformat() if settings.as_of else None,
            "verify_always": settings.verify_always,
            "gateway": session.resources.sources.gateway.report(),
            "kernel": {
                "read_ahead_kb": self.kernel.read_ahead_kb,
                "max_background": self.kernel.max_background,
            },
            "requests": dict(self.requests),
            "open_files": self.under_way.open_files,
            "waiting": {"requests": len(self.under_way), "longest": self.under_way.report()},
            "aliases": session.names.aliases(),
            "last_errors": self.errors.last(),
            "defects": session.resources.background.defects,
            "fetched": asdict(session.fetcher.counters) | {"in_progress": session.fetcher.fetching},
            "fetching": session.fetcher.journal.under_way(),
            "lineage": self.recorder.report(),
            "prefetch": session.fetcher.loaders.report(),
            "busy_threads": session.offload.busy(),
            "left_out": self._left_out(),
        }
        return json.dumps(status, indent=2).encode() + b"\n"

    def render_fetches(self) -> bytes:
        """Return how the last fetches of files went, one a line."""
        last = self.session.fetcher.journal.last()
        return "".join(json.dumps(fetch) + "\n" for fetch in last).encode()

    def _left_out(self) -> dict[str, dict[str, Any]]:
        """Return how many entries of what aren't shown, and some of them with reasons."""
        found: dict[str, dict[str, Any]] = {
            artifact_id: {"count": table.left_out.count, "report": [*table.left_out.report]}
            for artifact_id, table in self.session.fetcher.open_manifests().items()
            if table.left_out.count
        }
        for place in self.left_out.places:
            entries = found.setdefault(place, {"count": 0, "report": []})
            entries["count"] += 1
            entries["report"].append((CONTROL_NAME, WHY_LEFT_OUT))
        return found

"""What turns of several workloads have in common: a mount with nothing cached, the link's count."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmark.contenders.mounts import Mounted, MountIt, scratch
from benchmark.samples import Sample, Turn
from benchmark.site import Site
from benchmark.site.link import ROUND_TRIP_S
from benchmark.site.servers import Place

SEED = 20
QUIET_S = 1.0
QUIET_LIMIT_S = 20.0

Measure = Callable[[Mounted], Mapping[str, Sample]]


def on_mounts(
    mounts: Mapping[str, MountIt], site: Site, place: Place, name: str, measure: Measure
) -> dict[str, Turn]:
    """Return turns that mount, with nothing cached but the artifact by the server, and measure."""

    def turn(mount_it: MountIt) -> Mapping[str, Sample]:
        with scratch(site) as state:
            site.settle(name)
            with mount_it(site, place, state) as mounted:
                # Mounting takes longer than memory stays.
                site.touch_memory(name)
                return measured(mounted, measure)

    return {contender: partial(turn, mount_it) for contender, mount_it in mounts.items()}


def measured(mounted: Mounted, measure: Measure) -> dict[str, Sample]:
    """Measure, and add what the daemon took."""
    samples = measure(mounted)
    figures = mounted.figures()
    return {
        case: replace(sample, more={**figures, **sample.more}) for case, sample in samples.items()
    }


def downloaded(site: Site, name: str, download: Callable[[Path], Sample]) -> Sample:
    """Download into a new folder, with nothing cached but by the server."""
    with scratch(site) as state:
        site.settle(name)
        return download(state)


def counted(site: Site, measuring: Turn) -> dict[str, Sample]:
    """Add what the link carried for it, also what came after the program had its bytes."""
    before = _quiet(site)
    samples = measuring()
    after = _quiet(site)
    moved, connections = (after[name] - before[name] for name in ("bytes", "connections"))
    return {
        case: replace(
            sample,
            more={
                **sample.more,
                "round_trips": sample.seconds / ROUND_TRIP_S,
                "moved": moved,
                "moved_for_each": moved / sample.bytes,
                "connections": connections,
            },
        )
        for case, sample in samples.items()
    }


def told_moved(more: Mapping[str, float]) -> str:
    """Say what the link carried."""
    return f"{more['moved'] / (1 << 20):,.2f} MiB moved"


def _quiet(site: Site) -> Mapping[str, int]:
    """Wait until the link carries nothing, for a while at most; return what it has carried."""
    deadline = time.monotonic() + QUIET_LIMIT_S
    carried = site.carried()
    since = time.monotonic()
    while time.monotonic() < min(since + QUIET_S, deadline):
        time.sleep(0.1)
        now = site.carried()
        if now != carried:
            carried, since = now, time.monotonic()
    return carried

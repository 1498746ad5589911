"""`wbfs status --watch`: how mounts go, second by second."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wbfs.cli.mounts.status_words import NONSENSE, WAITS_S
from wbfs.cli.words.sizes import show_size
from wbfs.model.errors import UsageError
from wbfs.model.text import plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from wbfs.daemon.mounts.looking.survey import Seen, Survey

EVERY_S = 1.0
MORE_THAN_ENOUGH = 10_000
"""Columns of a terminal, and more."""
COLUMNS = (
    *("mount", "state", "network", "disk", "memory", "requests", "open", "under way"),
    *("waiting", "fetching", "prefetched", "used", "wasted"),
)
CAPTION = (
    "bytes a second: fetched from the network, read from the cache's disk, read from its memory"
    " (what the kernel has of a mount's own files is served unseen); Ctrl-C ends it"
)


def watch(survey: Survey, timeout_s: float) -> None:
    """Show the mounts until it is interrupted. Raises UsageError."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        raise UsageError(
            "--watch needs rich, which is not installed: run pip install 'wbfs[watch]'"
        ) from None

    console = Console()
    # Not as rich sees it, which may be told by a variable that a pipe is one.
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        raise UsageError(
            "--watch shows it on a terminal that can be drawn on, and there is none (podman exec"
            " and kubectl exec give one with -it; TERM says what it can): ask wbfs status --json as"
            " often as you like instead"
        )
    before: dict[str, _Counts | None] = {}
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                began_s = time.monotonic()
                seen = survey.look(timeout_s)
                live.update(_shown(seen, before, console), refresh=True)
                before = {str(one.path): _counted(one.status) for one in seen}
                time.sleep(max(0.0, began_s + EVERY_S - time.monotonic()))
    except KeyboardInterrupt:
        return


class _Counts:
    """What has been counted up to a moment of the monotonic clock."""

    def __init__(self, status: dict[str, Any]) -> None:
        fetched = status.get("fetched", {})
        self.at_s: float = status.get("at_s", time.monotonic())
        self.network: int = fetched.get("fetched_bytes", 0)
        self.memory: int = fetched.get("from_memory_bytes", 0)
        self.disk: int = max(0, fetched.get("served_bytes", 0) - self.memory)
        self.requests: int = sum(status.get("requests", {}).values())

    def rates(self, before: _Counts | None) -> list[str]:
        """Return what is counted a second since then, for people to read."""
        if before is None or self.requests < before.requests:
            # It has just begun, or begun again.
            return ["", "", "", ""]
        passed_s = max(self.at_s - before.at_s, 0.001)
        sizes = [
            (self.network, before.network),
            (self.disk, before.disk),
            (self.memory, before.memory),
        ]
        shown = [f"{show_size(int((now - then) / passed_s))}/s" for now, then in sizes]
        return [*shown, f"{(self.requests - before.requests) / passed_s:.0f}/s"]


def _counted(status: dict[str, Any]) -> _Counts | None:
    """Return what was counted; None where what a mount says makes no sense."""
    try:
        return _Counts(status)
    except NONSENSE:
        return None


def _shown(
    seen: list[Seen], before: Mapping[str, _Counts | None], console: Console
) -> RenderableType:
    """Return a table with a row a mount; where that is too wide, small ones beside each other."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = [_row(one, before) for one in seen]
    wide = Table(caption=CAPTION)
    for number, name in enumerate(COLUMNS):
        wide.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows:
        wide.add_row(*row)
    # As wide as it would be where it had all the room: it squeezes itself otherwise.
    room = console.options.update(width=MORE_THAN_ENOUGH)
    if console.measure(wide, options=room).maximum <= console.width:
        return wide
    narrow = []
    for path, *texts in rows:
        table = Table(title=path, show_header=False)
        for name, text in zip(COLUMNS[1:], texts, strict=True):
            table.add_row(name, text)
        narrow.append(table)
    return Group(Columns(narrow), Text(CAPTION))


def _row(one: Seen, before: Mapping[str, _Counts | None]) -> list[Text]:
    from rich.text import Text

    path = str(one.path)
    row = [path, str(one.health)]
    try:
        row += [*_Counts(one.status).rates(before.get(path)), *_levels(one.status)]
    except NONSENSE:
        row += [""] * (len(COLUMNS) - len(row))
    return [Text(plain(text)) for text in row]


def _waiting(status: dict[str, Any]) -> str:
    """Return how many programs wait for an answer; a mount tells of the first requests only."""
    waiting = status.get("waiting", {})
    late = [one for one in waiting.get("longest", []) if one.get("seconds", 0) >= WAITS_S]
    more = "+" if late and waiting.get("requests", 0) > len(waiting["longest"]) else ""
    return f"{len({one.get('pid') for one in late})}{more}"


def _levels(status: dict[str, Any]) -> list[str]:
    fetched = status.get("fetched")
    if fetched is None:
        return [""] * 7
    return [
        str(status.get("open_files", 0)),
        # Without the one that asks.
        str(max(0, status.get("waiting", {}).get("requests", 1) - 1)),
        _waiting(status),
        str(fetched.get("in_progress", 0)),
        *(
            show_size(fetched.get(name, 0))
            for name in ("prefetched_bytes", "used_bytes", "wasted_bytes")
        ),
    ]

"""What a mount says of itself may be anything: it is shown as far as it makes sense."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from wbfs.cli.mounts.status_words import lines
from wbfs.cli.mounts.watch import _counted, _shown
from wbfs.daemon.mounts.looking.health import Health
from wbfs.daemon.mounts.looking.survey import Seen

NAMES = st.sampled_from(
    [
        "pid",
        "pids",
        "cache",
        "used_bytes",
        "limit_bytes",
        "fetched",
        "fetched_bytes",
        "served_bytes",
    ]
    + ["waited_reads", "waited_s", "failed_fetches", "requests", "waiting", "longest", "seconds"]
    + ["fetching", "bytes", "size", "gateway", "aliases", "last_errors", "lineage", "run", "at_s"]
    + ["prefetch", "pending", "started_at", "server_lost_since", "open_files", "user", "source"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
)


@given(st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, VALUES))
def test_whatever_it_is(earlier: dict[str, Any], status: dict[str, Any]) -> None:
    sensible = Seen(path=Path("/sensible"), health=Health.SERVES, status={})
    seen = [Seen(path=Path("/odd"), health=Health.SERVES, status=status), sensible]
    assert lines(seen[0])[0].startswith("/odd: serving")
    console = Console(width=300, file=io.StringIO())
    console.print(_shown(seen, {"/odd": _counted(earlier)}, console))
    assert isinstance(console.file, io.StringIO)
    assert "/sensible" in console.file.getvalue()


def test_no_file_is_read_that_is_no_process(tmp_path: Path) -> None:
    # Whoever reads it waits for ever.
    os.mkfifo(tmp_path / "comm")
    longest = [{"operation": "read", "path": "x", "seconds": 99, "pid": f"1/../..{tmp_path}"}]
    odd = Seen(path=Path("/odd"), health=Health.SERVES, status={"waiting": {"longest": longest}})
    assert "by a process that can't be told" in "\n".join(lines(odd))

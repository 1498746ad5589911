"""The link as to a server far away: what it is like, and the building of `link.c`."""

from __future__ import annotations

from pathlib import Path

from mounts import check

ROUND_TRIP_S = 0.020
BYTES_PER_S = 50e6
"""Of one connection."""
ANSWERS_PER_S = 300.0
"""Of one connection. With one request at a time the round trip alone allows fewer."""
BUILD_TIMEOUT_S = 60.0


def build_link(folder: Path) -> list[str]:
    """Compile the link into a folder; return its command, to which ports are to be added."""
    program = folder / "link"
    check("cc", "-O2", "-o", program, Path(__file__).with_name("link.c"), timeout_s=BUILD_TIMEOUT_S)
    return [str(program), *map(str, (ROUND_TRIP_S, BYTES_PER_S, ANSWERS_PER_S))]

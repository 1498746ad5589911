"""What is mounted: others' tests mount too, at paths of all kinds, and the table has all of it."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """One mount, by the kernel's table: a dead one can't be asked."""

    path: Path
    device: str
    kind: str
    source: str
    options: list[str]


def mounted() -> Iterator[Row]:
    """Yield what is mounted, in the order in which it was."""
    for row in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:
        left, _, right = os.fsdecode(row).partition(" - ")
        _, _, device, _, path, options, *_ = left.split(" ")
        kind, source, more_options = right.split(" ", 2)
        # Spaces and other odd bytes of a path are written in octal.
        whole, _ = codecs.escape_decode(os.fsencode(path))
        assert isinstance(whole, bytes)
        all_options = [*options.split(","), *more_options.split(",")]
        yield Row(Path(os.fsdecode(whole)), device, kind, source, all_options)


def mounted_at(path: Path) -> list[Row]:
    """Return what is mounted at a path, the latest last."""
    return [row for row in mounted() if row.path == path]

"""Sizes on the command line: as people write them, and as they read them."""

from __future__ import annotations

import re

import click

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_TOO_LARGE = 1 << 63
"""Bytes that no file can have, in any filesystem or table."""


class Size(click.ParamType[int]):
    """A number of bytes: 500MB, 20GiB, 1.5T."""

    name = "size"

    def __init__(self, min: int = 0) -> None:
        """Take no size below `min`."""
        self._min = min

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the bytes; without an i, units count in thousands."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is no size, as in 500MB or 20GiB", param, ctx)
        base = 1024 if match[3] else 1000
        size = float(match[1]) * base ** _UNITS[match[2].lower()]
        if not self._min <= size < _TOO_LARGE:
            least = f"at least {show_size(self._min)}, and " if self._min else ""
            self.fail(f"{value!r} is out of range: it is {least}less than 8EiB", param, ctx)
        return int(size)


def show_size(size: int) -> str:
    """Return a size for people to read."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"

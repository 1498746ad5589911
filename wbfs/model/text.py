"""Texts that may have come from outside, as people see them: on a terminal, and in a log.

A name, a server's answer or an environment variable may hold what moves a terminal's cursor, turns
the direction of writing, or begins a line that looks like one of ours.
"""

from __future__ import annotations

import logging

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_INDENT = "    "


def plain(text: str) -> str:
    r"""Return a text as one line that does nothing but be read: what can't be seen is escaped.

    So that a name can still be told from another, as in a Python text: `\x1b`, `\n`, `\u202e`.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class LineFormatter(logging.Formatter):
    """Makes one line of one event, whatever is in it; a traceback follows it, indented."""

    def __init__(self, format: str = LOG_FORMAT) -> None:
        super().__init__(format)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the event's line."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        """Return a traceback, whose lines can't be taken for events."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(_INDENT + plain(line) for line in text.split("\n"))

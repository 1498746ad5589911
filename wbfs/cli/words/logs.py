"""Where commands log that stay in the background."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs

from wbfs.cli.words.echo import echo
from wbfs.model.errors import UsageError
from wbfs.model.text import LineFormatter

LOG_BYTES = 10 << 20
LOG_FILES = 3
MAX_NAME = 200
"""Bytes that a log file's name has at most, without its suffix."""


def default_log_file(name: str) -> Path:
    """Return where something of that name logs, which may be a path."""
    plain = os.fsencode(name.strip("/").replace("/", "-"))[-MAX_NAME:] or b"root"
    return platformdirs.user_state_path("wbfs") / f"{os.fsdecode(plain)}.log"


def start_logging(
    log_file: Path | None, *, otherwise: str = "with --log-file", debug: bool = False
) -> None:
    """Log to the file, whose folder is made, or without one to the terminal. Raises UsageError.

    `otherwise` is how a user says where else.
    """
    handler: logging.Handler = logging.StreamHandler()
    if log_file is not None:
        try:
            log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handler = _LogFile(
                log_file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"
            )
        except OSError as error:
            raise UsageError(
                f"can't log to {log_file}: {error.strerror}; choose another place {otherwise}"
            ) from error
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if debug else logging.INFO)


def show_warnings() -> Callable[[], None]:
    """Have warnings printed as well, until what is returned is called.

    Errors aren't: what fails says so itself.
    """
    handler = _Printer(logging.WARNING)
    handler.addFilter(lambda record: record.levelno == logging.WARNING)
    logging.getLogger().addHandler(handler)
    return lambda: logging.getLogger().removeHandler(handler)


class _LogFile(logging.handlers.RotatingFileHandler):
    """A log whose lines are lost where its disk takes no more: a mount needs none to go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell of a line that could not be made, but of none that could not be written."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Printer(logging.Handler):
    """Prints what is logged, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        echo(f"wbfs: {record.getMessage()}", err=True)

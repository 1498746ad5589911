"""Ctrl-C at a moment when nobody waits for signals."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""The exit code after Ctrl-C, as of every program that it ended."""


@contextmanager
def quiet_interruption() -> Iterator[None]:
    """Exit without a traceback where Ctrl-C comes before, or after, signals are waited for."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

"""The files that this process has open at its start, and how many it may have."""

from __future__ import annotations

import os
import resource
import sys

from wbfs.model.errors import UsageError

NEEDED = 64
"""What a mount has open with a few readers, or a download with its connections."""


def have_standard_streams() -> None:
    """Have something open at 0, 1 and 2, where whoever started this has closed them.

    A file of ours would get that number otherwise, and be printed into; and a stream is None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, so that one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def allow_descriptors() -> None:
    """Have as many files open as the machine lets this process: 1,024 are a default for others.

    Raises UsageError where that is too few: what would fail then, and when, is anybody's guess.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NEEDED:
        raise UsageError(
            f"this process may have {hard} files open at once, and wbfs needs {NEEDED}: raise the"
            " hard limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

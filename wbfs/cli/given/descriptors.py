"""How many files this process may have open."""

from __future__ import annotations

import resource

from wbfs.model.errors import UsageError

NEEDED = 64
"""What a mount has open with a few readers, or a download with its connections."""


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

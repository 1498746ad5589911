"""Exit codes, which tell systemd, a kubelet and a script whether to start a mount again.

0 is for a mount that was told to end.
"""

from __future__ import annotations

from wbfs.model.errors import (
    AccessDenied,
    MountLost,
    NameInvalid,
    NoFuse,
    NotFound,
    NotNow,
    UsageError,
    WbfsError,
)

MAY_GO_BETTER = 1
WRONG_USE = 2
"""As click has it."""
MOVED = 3
"""What was locked is no longer so, as `wbfs lock --check` tells."""
NO_ACCESS = 77
"""Not logged in, no permission, or no such artifact: only somebody who mends that changes it."""
NO_FUSE = 78
MOUNT_LOST = 79


class FailedBehind(WbfsError):
    """What went on in the background failed; `exit_code` is what it ended with."""

    def __init__(self, message: str, exit_code: int = MAY_GO_BETTER) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: WbfsError) -> int:
    """Return the exit code of what failed by an error."""
    match error:
        case FailedBehind():
            return error.exit_code
        case NoFuse():
            return NO_FUSE
        case MountLost():
            return MOUNT_LOST
        case AccessDenied() | NotFound():
            return NO_ACCESS
        case NotNow():
            return MAY_GO_BETTER
        case UsageError() | NameInvalid():
            return WRONG_USE
        case _:
            return MAY_GO_BETTER

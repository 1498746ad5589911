"""Exit codes, which tell systemd, a kubelet and a script whether to start a mount again.

0 is for a mount that was told to end. Wrong use of the command line, 2, is click's.
"""

from __future__ import annotations

from wbfs.model.errors import MountLost, NoFuse, WbfsError

MAY_GO_BETTER = 1
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
        case _:
            return MAY_GO_BETTER

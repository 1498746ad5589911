"""A mount's entry in the kernel's control filesystem: its settings, and the end of its connection.

That is mounted in most systems; where it isn't, root mounts it for a moment where nobody else sees
it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

CONTROL = Path("/sys/fs/fuse/connections")
COMMAND_TIMEOUT_S = 5.0

_SET_PRIVATELY = f"""
set -e
mount --make-private /sys
mount -t fusectl none {CONTROL}
cd "{CONTROL}/$1"
shift
for setting; do echo "${{setting#*=}}" > "${{setting%%=*}}"; done
"""


def set_connection(device: str, settings: Mapping[str, int]) -> None:
    """Set what may be set of the mount on `device` ("0:45"). Raises OSError, SubprocessError.

    It must be there: the numbers of those that are gone are given out again.
    """
    connection = device.partition(":")[2]
    folder = CONTROL / connection
    if folder.exists():
        for name, value in settings.items():
            (folder / name).write_text(str(value))
        return
    command = ["unshare", "--mount", "--propagation", "unchanged"]
    command += ["sh", "-c", _SET_PRIVATELY, "sh", connection]
    command += [f"{name}={value}" for name, value in settings.items()]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )


def waiting_requests(device: str) -> int | None:
    """Return how many requests wait for an answer; None where that can't be told."""
    try:
        return int((CONTROL / device.partition(":")[2] / "waiting").read_text())
    except (OSError, ValueError):
        # Not mounted, or another user's.
        return None


def abort(device: str) -> None:
    """End the connection: whoever waits for the mount gets an error. See `set_connection`."""
    set_connection(device, {"abort": 1})

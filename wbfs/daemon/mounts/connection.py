"""A mount's entries in the kernel's own filesystems: its settings, and the end of its connection.

The control filesystem is mounted in most systems; where it isn't, root mounts it for a moment where
nobody else sees it. So it is with a /sys that is read-only, as in containers.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Mapping
from pathlib import Path

CONTROL = Path("/sys/fs/fuse/connections")
BACKING = Path("/sys/class/bdi")
COMMAND_TIMEOUT_S = 5.0

_SET_PRIVATELY = f"""
set -e
mount --make-private /sys
mount -t fusectl none {CONTROL}
cd "{CONTROL}/$1"
shift
for setting; do echo "${{setting#*=}}" > "${{setting%%=*}}"; done
"""
_READ_AHEAD_PRIVATELY = """
set -e
mount --make-private /sys
mount -o remount,bind,rw /sys
{ echo "$2" > "$1"; } 2> /dev/null && exit
# A network namespace of its own has a sysfs of its own, which is read-only as well.
mount -o remount,rw /sys
echo "$2" > "$1"
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
    _run_privately(
        _SET_PRIVATELY, connection, *(f"{name}={value}" for name, value in settings.items())
    )


def set_read_ahead(device: str, kib: int) -> None:
    """Set how far the kernel reads ahead on `device` ("0:45"). Raises OSError, SubprocessError."""
    setting = read_ahead_setting(device)
    try:
        setting.write_text(str(kib))
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        _run_privately(_READ_AHEAD_PRIVATELY, str(setting), str(kib))


def read_ahead_setting(device: str) -> Path:
    """Return the file that says how far the kernel reads ahead, in KiB."""
    return BACKING / device / "read_ahead_kb"


def _run_privately(script: str, *words: str) -> None:
    """Run a script for sh where nobody else sees what it mounts."""
    subprocess.run(
        ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script, "sh", *words],
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

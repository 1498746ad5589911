"""Kernel settings of a running mount that FUSE's own protocol, as pyfuse3 has it, can't set."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)

MAX_BACKGROUND = 256
"""Reads that the kernel sends at once. Its default of 12 would make every reader wait for the
twelve that wait for a slow server, those of cached files too. The threshold of congestion goes
with it: beyond that the kernel reads in a way in which a waiting process can't be killed."""

_CONTROL = Path("/sys/fs/fuse/connections")
_COMMAND_TIMEOUT_S = 5.0
_SETTINGS = ("max_background", "congestion_threshold")
_SET_PRIVATELY = f"""
set -e
mount --make-private /sys
mount -t fusectl none {_CONTROL}
cd "{_CONTROL}/$1"
for setting in {" ".join(_SETTINGS)}; do echo {MAX_BACKGROUND} > $setting; done
"""


def allow_many_reads(mountpoint: Path) -> bool:
    """Raise the number of reads in flight of the mount; return whether that was permitted.

    The control filesystem is mounted in most systems; where it isn't, root mounts it for a moment
    where nobody else sees it.
    """
    connection = str(os.minor(os.stat(mountpoint).st_dev))
    folder = _CONTROL / connection
    try:
        if folder.exists():
            for setting in _SETTINGS:
                (folder / setting).write_text(str(MAX_BACKGROUND))
            return True
        subprocess.run(
            [
                "unshare",
                "--mount",
                "--propagation",
                "unchanged",
                "sh",
                "-c",
                _SET_PRIVATELY,
                "sh",
                connection,
            ],
            check=True,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.info(
            "the kernel will send 12 reads at once at most: root, or who finds %s mounted, may set"
            " more (%s)",
            _CONTROL,
            type(error).__name__,
        )
        return False
    return True

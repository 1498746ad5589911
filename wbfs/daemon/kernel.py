"""What a running mount tells the kernel beside its answers: settings, and notices."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pyfuse3
import trio

from wbfs.fetch.background import Background

log = logging.getLogger(__name__)

MAX_BACKGROUND = 256
"""Reads that the kernel sends at once. Its default of 12 would make every reader wait for the
twelve that wait for a slow server, those of cached files too. The threshold of congestion goes
with it: beyond that the kernel reads in a way in which a waiting process can't be killed."""

READ_AHEAD_KB = 4096
"""KiB that the kernel asks for ahead of a reader. Its default of 128 makes small requests, two at a
time."""
NOTICES_AT_ONCE = 2

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


class Kernel:
    """The kernel's side of one mount, from the trio thread; what may wait is done in threads.

    `read_ahead_kb` and `max_background` are the settings in force, None where they can't be told.
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self._notices = trio.CapacityLimiter(NOTICES_AT_ONCE)
        self.read_ahead_kb: int | None = None
        self.max_background: int | None = None

    async def set_up(self, mountpoint: Path) -> None:
        """Set what may be set for the mount, which must answer already."""
        self.read_ahead_kb, self.max_background = await trio.to_thread.run_sync(_set_up, mountpoint)

    def drop_pages(self, inodes: frozenset[int]) -> None:
        """Have the kernel forget all bytes of files.

        It waits for reads of those files that are under way, and no read may wait for it.
        """
        self._background.spawn(lambda: self._drop_pages(inodes), name="drop pages")

    async def _drop_pages(self, inodes: frozenset[int]) -> None:
        await trio.to_thread.run_sync(
            _drop_pages, inodes, limiter=self._notices, abandon_on_cancel=True
        )


def _set_up(mountpoint: Path) -> tuple[int | None, int | None]:
    device = os.stat(mountpoint).st_dev
    minor = str(os.minor(device))
    return _read_ahead(f"{os.major(device)}:{minor}"), _allow_many_reads(minor)


def _read_ahead(device: str) -> int | None:
    """Raise how far the kernel reads ahead; return how far that is now."""
    setting = Path("/sys/class/bdi", device, "read_ahead_kb")
    try:
        setting.write_text(str(READ_AHEAD_KB))
    except OSError as error:
        log.info("the kernel reads ahead by its default; root may set %s: %s", setting, error)
    try:
        return int(setting.read_text())
    except (OSError, ValueError) as error:
        log.info("can't tell how far the kernel reads ahead: %s", error)
        return None


def _allow_many_reads(connection: str) -> int | None:
    """Raise the number of reads in flight; return it, or None where it was not permitted.

    The control filesystem is mounted in most systems; where it isn't, root mounts it for a moment
    where nobody else sees it.
    """
    folder = _CONTROL / connection
    command = ["unshare", "--mount", "--propagation", "unchanged"]
    command += ["sh", "-c", _SET_PRIVATELY, "sh", connection]
    try:
        if folder.exists():
            for setting in _SETTINGS:
                (folder / setting).write_text(str(MAX_BACKGROUND))
        else:
            subprocess.run(
                command,
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
        return None
    return MAX_BACKGROUND


def _drop_pages(inodes: frozenset[int]) -> None:
    for inode in inodes:
        try:
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode))
        except OSError as error:
            # The kernel has forgotten it by itself, or the mount is gone.
            log.info("the pages of inode %d are not dropped: %s", inode, error.strerror)

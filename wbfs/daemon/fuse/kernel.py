"""What a running mount tells the kernel beside its answers: settings, and notices."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Sequence
from functools import partial

import pyfuse3
import trio

from wbfs.daemon.mounts.connection import (
    CONTROL,
    read_ahead_setting,
    set_connection,
    set_read_ahead,
)
from wbfs.fetch.work.background import Background

log = logging.getLogger(__name__)

MAX_BACKGROUND = 2048
"""Reads that the kernel sends at once. With its default of 12, or any number that the readers of a
silent server reach, all readers would wait for those, be it for cached files. The threshold of
congestion goes with it: beyond that the kernel reads in a way in which a waiting process can't be
killed."""

READ_AHEAD_KB = 512
"""KiB that the kernel asks for ahead of a reader, and around a page that a mapping misses. Its
default of 128 makes small requests, two at a time; with 4096 it asks for 2.7 bytes for each that is
wanted of a mapped file's tensors, a tenth of them, and with this for 1.25."""
NOTICES_AT_ONCE = 2
NOTICES_POLL_S = 0.01

_SETTINGS = {"max_background": MAX_BACKGROUND, "congestion_threshold": MAX_BACKGROUND}


class Kernel:
    """The kernel's side of one mount, from the trio thread; what may wait is done in threads.

    `device` is the mount's number ("0:45"), and `read_ahead_kb` and `max_background` are the
    settings in force, None where they can't be told.
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self._notices = trio.CapacityLimiter(NOTICES_AT_ONCE)
        self._takes_notices = True
        self.device: str | None = None
        self.read_ahead_kb: int | None = None
        self.max_background: int | None = None

    async def set_up(self, device: str) -> None:
        """Set what may be set for the mount on `device` ("0:45"), which must answer already."""
        self.device = device
        self.read_ahead_kb, self.max_background = await trio.to_thread.run_sync(_set_up, device)

    def drop_pages(self, inodes: frozenset[int]) -> None:
        """Have the kernel forget all bytes of files.

        It waits for reads of those files that are under way, and no read may wait for it.
        """
        if self._takes_notices:
            self._background.spawn(lambda: self._drop_pages(inodes), name="drop pages")

    def forget(self, names: Sequence[tuple[int, str]], *, root: bool) -> None:
        """Have the kernel ask again what names, by their directories' inodes, are.

        And what the mountpoint itself is, with `root`. It waits for whoever looks them up now.
        """
        if self._takes_notices and (names or root):
            self._background.spawn(lambda: self._forget(names, root), name="forget names")

    async def end_notices(self) -> None:
        """Send none any more, and return when those under way have ended, with their threads."""
        self._takes_notices = False
        while self._notices.borrowed_tokens:
            await trio.sleep(NOTICES_POLL_S)

    async def _drop_pages(self, inodes: frozenset[int]) -> None:
        await trio.to_thread.run_sync(
            _drop_pages, inodes, limiter=self._notices, abandon_on_cancel=True
        )

    async def _forget(self, names: Sequence[tuple[int, str]], root: bool) -> None:
        await trio.to_thread.run_sync(
            _forget, names, root, limiter=self._notices, abandon_on_cancel=True
        )


def _set_up(device: str) -> tuple[int | None, int | None]:
    return _read_ahead(device), _allow_many_reads(device)


def _read_ahead(device: str) -> int | None:
    """Raise how far the kernel reads ahead; return how far that is now."""
    setting = read_ahead_setting(device)
    try:
        set_read_ahead(device, READ_AHEAD_KB)
    except (OSError, subprocess.SubprocessError) as error:
        log.info(
            "the kernel reads ahead by its default; root may set %s (%s)",
            setting,
            type(error).__name__,
        )
    try:
        return int(setting.read_text())
    except (OSError, ValueError) as error:
        log.info("can't tell how far the kernel reads ahead: %s", error)
        return None


def _allow_many_reads(device: str) -> int | None:
    """Raise the number of reads in flight; return it, or None where it was not permitted."""
    try:
        set_connection(device, _SETTINGS)
    except (OSError, subprocess.SubprocessError) as error:
        log.info(
            "the kernel will send 12 reads at once at most: root, or who finds %s mounted, may set"
            " more (%s)",
            CONTROL,
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


def _forget(names: Sequence[tuple[int, str]], root: bool) -> None:
    notices = [
        partial(pyfuse3.invalidate_entry, pyfuse3.InodeT(directory), os.fsencode(name))
        for directory, name in names
    ]
    if root:
        notices.append(partial(pyfuse3.invalidate_inode, pyfuse3.ROOT_INODE, attr_only=True))
    for notice in notices:
        try:
            notice()
        except OSError as error:
            # The kernel doesn't know the name, as most, or the mount is gone.
            log.debug("a notice is of no use: %s", error.strerror)

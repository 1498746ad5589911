"""The daemon's own mount as the kernel's table has it: told from others at the same place."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from pathlib import Path

from wbfs.daemon.mounts.looking.health import Question
from wbfs.daemon.mounts.mountpoint import unmount
from wbfs.daemon.mounts.passed import FUSE_DEVICE, device_of
from wbfs.daemon.mounts.records import Record, Records, pid_namespace, start_of
from wbfs.daemon.mounts.table import Mount, mount_at, mounts, mounts_at
from wbfs.model.errors import UsageError
from wbfs.model.settings import MountSettings

log = logging.getLogger(__name__)


FIND_TIMEOUT_S = 5.0
"""Seconds that mounts have to say whether they are this process's."""


class OwnMount:
    """The one mount of this process, with its record; `device` is its number, "0:45"."""

    def __init__(self, settings: MountSettings, *, server: str) -> None:
        """Find it, which has just been mounted, and write its record."""
        self._settings = settings
        self._server = server
        self._path = settings.mountpoint
        self._is_anothers = settings.descriptor is not None
        # libfuse's own.
        self._descriptors = _descriptors_of_fuse()
        self._records = Records()
        self._record: Record | None = None
        if settings.descriptor is not None:
            device = device_of(settings.descriptor)
        else:
            mount = mount_at(self._path)
            # None where somebody was quick to unmount it.
            device = mount.device if mount and mount.is_ours else None
        if device is not None:
            self._note(device)

    def find(self) -> None:
        """Find it by asking, once it answers: kernels before 6.16 don't tell by its descriptor.

        Blocking: what is asked may hang, and it is this very process that answers.
        """
        questions = {
            mount.device: Question(mount.mountpoint, "status")
            for mount in mounts()
            if mount.is_fuse
        }
        until_s = time.monotonic() + FIND_TIMEOUT_S
        for device, question in questions.items():
            question.wait(until_s)
            said = question.status
            if (said.get("pid"), said.get("pids")) == (os.getpid(), pid_namespace()):
                # What is mounted at its path by now.
                self._note(question.answer.get("device", device))
            question.close()

    def _note(self, device: str) -> None:
        self._record = _record(self._settings, self._server, device)
        self._records.write(self._record)

    @property
    def device(self) -> str | None:
        """Its number; None where it was gone at once, or the kernel doesn't tell."""
        return self._record.device if self._record else None

    @property
    def is_there(self) -> bool:
        """Whether it is mounted still. Elsewhere its number may be another's, once it is gone."""
        where = mounts() if self._is_anothers else mounts_at(self._path)
        return any(self._is_own(mount) for mount in where)

    def _is_own(self, mount: Mount) -> bool:
        """Whether a mount is this one; its number may have been given out again meanwhile."""
        if self._record is None or mount.device != self._record.device:
            return False
        # Who mounts for others has other names for it.
        if not (mount.is_ours or self._is_anothers):
            return False
        return self._records.find(mount.device) in (None, self._record)

    def take_down(self) -> None:
        """Unmount it, though programs use it, and never another's mount."""
        if self._is_anothers:
            return
        path = self._path if self.is_there else self._moved_to()
        if path is None:
            return
        mount = mount_at(path)
        if mount is None or not self._is_own(mount):
            log.error("%s is under another mount, and stays, dead: unmount both", path)
            return
        try:
            unmount(path, lazy=True)
        except UsageError as error:
            log.error("%s", error)

    def _moved_to(self) -> Path | None:
        """Return where it is since a folder above it was renamed; None where it is unmounted."""
        found = [one.mountpoint for one in mounts() if self._is_own(one) and one.root == "/"]
        # Asked afterwards: while it is connected, its number is no other's.
        return found[0] if found and self._is_connected() else None

    def _is_connected(self) -> bool:
        """Whether the kernel has it still, be it where this process doesn't see it."""
        poll = select.poll()
        for descriptor in self._descriptors:
            poll.register(descriptor, 0)
        return len(self._descriptors) == 1 and not poll.poll(0)

    def forget(self) -> None:
        """Remove its record."""
        if self._record is not None:
            self._records.remove(self._record)


def _descriptors_of_fuse() -> list[int]:
    """Return this process's descriptors of /dev/fuse."""
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        # That of the list itself is closed.
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_rdev == FUSE_DEVICE:
                found.append(descriptor)
    return found


def _record(settings: MountSettings, server: str, device: str) -> Record:
    started = start_of(os.getpid())
    assert started is not None
    return Record(
        pid=os.getpid(),
        started=started,
        pids=pid_namespace(),
        device=device,
        mountpoint=str(settings.mountpoint),
        source=settings.source,
        path_prefix=settings.path_prefix,
        server=server,
        offline=settings.offline,
        cache_dir=str(settings.cache_dir),
        cache_size=settings.cache_size,
        min_free=settings.min_free,
        blob_gateway=settings.blob_gateway,
        log_file=str(settings.log_file) if settings.log_file else None,
    )

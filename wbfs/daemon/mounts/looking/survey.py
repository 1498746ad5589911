"""Which mounts there are and how each of them is: what `wbfs status` says.

Mounts are asked all at once and apart, so that the answer is there in time, whatever they do. That
of another user's is root's to ask, in that user's name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbfs.daemon.mounts.connection import waiting_requests
from wbfs.daemon.mounts.looking.health import Health, Question
from wbfs.daemon.mounts.records import Record, Records, pid_namespace
from wbfs.daemon.mounts.table import Mount, mount_at, mount_of, mounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A mount, or a path where there is none.

    `record` is what its daemon wrote down, of one's own mounts only; `status` what it says of
    itself, empty where it says nothing; `waiting` how many requests the kernel has for it that are
    not answered. Each is None where it can't be told. `below` is the mount of wbfs that a path is
    on where there is none at it.
    """

    path: Path
    health: Health
    mount: Mount | None = None
    record: Record | None = None
    waiting: int | None = None
    below: Path | None = None
    status: dict[str, Any]

    @property
    def source(self) -> str | None:
        """What it shows, empty for everything; None where it isn't known."""
        return self.record.source if self.record else self.status.get("source")

    @property
    def pid(self) -> int | None:
        """Its daemon's process; None where it isn't known, or has no number here."""
        if self.record is not None:
            return self.record.pid
        return None if self.is_elsewhere else self.status.get("pid")

    @property
    def is_elsewhere(self) -> bool:
        """Whether its daemon has numbers of its own for processes, as in a container."""
        return self.status.get("pids") not in (None, pid_namespace())


class Survey:
    """Looks at mounts, as often as it is asked to; no more than one question waits at each."""

    def __init__(self, paths: Sequence[Path] | None) -> None:
        """Look at what is mounted at these paths; None is all mounts that one may ask."""
        self._paths = paths
        self._asked: dict[Mount, Question] = {}

    def look(self, timeout_s: float) -> list[Seen]:
        """Return how the mounts are, within that time and a little.

        One that has not answered the last time is waited for no longer than that in all.
        """
        found = self._find()
        for mount in {mount for _, mount in found if mount is not None} - self._asked.keys():
            self._asked[mount] = Question(mount.mountpoint, "status", owner=_owner_to_be(mount))
        for question in self._asked.values():
            question.wait(question.asked_s + timeout_s)
        records = Records()
        seen = [self._seen(path, mount, records) for path, mount in found]
        # Those that have not answered yet go on.
        for mount in [one for one, question in self._asked.items() if question.is_over]:
            self._asked.pop(mount).close()
        return seen

    def close(self) -> None:
        """Leave behind what still waits."""
        while self._asked:
            self._asked.popitem()[1].close()

    def _find(self) -> list[tuple[Path, Mount | None]]:
        if self._paths is not None:
            return [(path, mount_at(path)) for path in self._paths]
        records = Records()
        return [
            (mount.mountpoint, mount)
            for mount in mounts()
            # Also what somebody else has mounted for one's own daemon.
            if mount.may_be_unmounted or (mount.is_fuse and records.of(mount) is not None)
        ]

    def _seen(self, path: Path, mount: Mount | None, records: Records) -> Seen:
        if mount is None:
            below = mount_of(path)
            return Seen(
                path=path,
                health=Health.NOT_MOUNTED,
                below=below.mountpoint if below and below.is_ours else None,
                status={},
            )
        question = self._asked[mount]
        status = question.status
        record = records.of(mount)
        # Somebody else may have mounted it for the daemon, under another name; and what is under
        # another mount can't be reached by its path.
        is_known = mount.is_ours or record is not None or status.get("device") == mount.device
        is_there = question.answer.get("device", mount.device) == mount.device
        if not (is_known and is_there):
            return Seen(path=path, health=Health.NOT_MOUNTED, status={})
        return Seen(
            path=path,
            health=question.health,
            mount=mount,
            record=record,
            waiting=waiting_requests(mount.device),
            status=status,
        )


def _owner_to_be(mount: Mount) -> tuple[int, int] | None:
    """Return whom root has to be to ask a mount, which may let in nobody else."""
    if os.getuid() != 0 or not mount.is_another_users:
        return None
    return mount.user_id or 0, mount.group_id or 0

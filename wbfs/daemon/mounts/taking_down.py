"""`wbfs umount`: a mount taken down from outside, and its daemon's end waited for.

Which daemon that is, is known of the user's own mounts only, by their records; of others' there is
what the kernel says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from wbfs.daemon.mounts.connection import abort
from wbfs.daemon.mounts.looking.health import LOOK_TIMEOUT_S, Health, has_ended, health_of
from wbfs.daemon.mounts.looking.survey import Survey
from wbfs.daemon.mounts.mountpoint import InUse, unmount
from wbfs.daemon.mounts.records import Record, Records
from wbfs.daemon.mounts.table import FILESYSTEM_TYPE, Mount, mount_at, mounts, who_else_sees
from wbfs.model.errors import NotNow, UsageError

log = logging.getLogger(__name__)

END_TIMEOUT_S = 20.0
"""Seconds that a daemon has to end once its mount is gone."""
IN_USE_S = 1.0
"""Seconds in which whoever is in a mount may leave it: most only look what is there."""
LOOKED_AT_EVERY_S = 0.1
MOMENT_S = 5.0
"""Seconds for which a namespace may have a copy of the mount and be gone: mounts make one as they
start, with a copy of all that is mounted."""
ABORT_TIMEOUT_S = 5.0
"""Seconds that it has once its connection was aborted, or it was told to, before it is killed."""


class NotMounted(UsageError):
    """There is no mount of wbfs at that place."""


def find_mounts(paths: Sequence[Path] | None, *, only_dead: bool) -> list[Path]:
    """Return where mounts are that may be taken down: at these paths, or all of them."""
    survey = Survey(paths)
    try:
        seen = survey.look(LOOK_TIMEOUT_S if only_dead else 0)
    finally:
        survey.close()
    wanted = {Health.DEAD} if only_dead else {*Health} - {Health.NOT_MOUNTED}
    return [
        one.path
        for one in seen
        if one.health in wanted
        and (paths is not None or (one.mount is not None and one.mount.may_be_unmounted))
    ]


def take_down(path: Path, *, lazy: bool, force: bool, only_dead: bool = False) -> None:
    """Take our mount at `path` down and wait until its daemon has ended.

    Raises NotMounted, for `only_dead` also where it lives (again); and UsageError where it is
    another program's mount, or doesn't come down.

    With `lazy` programs go on with what they have open, and the daemon until the last has left;
    with `force` whatever they wait for fails, and the daemon is killed where it doesn't end.
    """
    mount = mount_at(path)
    if mount is None:
        raise NotMounted(f"wbfs is not mounted at {path}: see findmnt -t {FILESYSTEM_TYPE}")
    if not mount.is_ours:
        # It may be one that was passed to a daemon of ours, which can't take it down either.
        raise UsageError(
            f"wbfs has not mounted what is at {path} ({mount.filesystem_type}): whoever has mounted"
            f" it takes it down, with umount {path} for instance"
        )
    if mount.is_another_users and os.getuid() != 0:
        raise UsageError(
            f"the mount at {path} is another user's (uid {mount.user_id}): that user or root takes"
            " it down"
        )
    if only_dead and health_of(path) is not Health.DEAD:
        raise NotMounted(f"the mount at {path} is not dead")
    records = Records()
    record = records.of(mount)
    process = record.open_process() if record else None
    # Before it comes down: afterwards another mount may have the number.
    others = {} if process is None or lazy else who_else_sees(mount.device)
    binds = _mountpoints(mount.device) - {mount.mountpoint}
    try:
        if force:
            _force(mount, process)
        else:
            _unmount(mount, record, lazy=lazy)
        if record is not None and process is not None and not lazy and not _is_bind(mount, record):
            _wait(mount, record, process, others, binds)
            # It did so itself, unless it was killed.
            records.remove(record)
    finally:
        if process is not None:
            os.close(process)


def _is_bind(mount: Mount, record: Record) -> bool:
    """Whether what came down was a bind of what is mounted elsewhere, and goes on there."""
    is_elsewhere = any(one.device == mount.device for one in mounts())
    return is_elsewhere and os.fspath(mount.mountpoint) != record.mountpoint


def _unmount(mount: Mount, record: Record | None, *, lazy: bool) -> None:
    give_up_s = time.monotonic() + IN_USE_S
    try:
        while True:
            try:
                return _unmount_once(mount, lazy=lazy)
            except InUse:
                if time.monotonic() > give_up_s:
                    raise
            time.sleep(LOOKED_AT_EVERY_S)
            if mount_at(mount.mountpoint) != mount:
                # It is gone, and what is there now was not meant.
                return None
    except UsageError:
        health = None if lazy else health_of(mount.mountpoint)
        if health is Health.DEAD:
            # What programs have open there is of no use to them.
            return _unmount_once(mount, lazy=True)
        if health is not Health.HANGS:
            raise
        # It is in use by programs that wait for what will never come.
        raise NotNow(
            f"{mount.mountpoint} is in use, and {_daemon(record)} does not answer: end it, and what"
            f" programs wait for, with wbfs umount --force {mount.mountpoint}"
        ) from None


def _daemon(record: Record | None) -> str:
    return "its daemon" if record is None else f"its daemon (process {record.pid})"


def _force(mount: Mount, process: int | None) -> None:
    """End a mount's connection, which ends its daemon, if need be by force; and unmount it."""
    try:
        abort(mount.device)
    except (OSError, subprocess.SubprocessError) as error:
        log.info("can't abort the connection of %s: %s", mount.mountpoint, error)
        _send(process, signal.SIGTERM)
    if process is not None and not has_ended(process, ABORT_TIMEOUT_S):
        _send(process, signal.SIGKILL)
    if mount_at(mount.mountpoint) == mount:
        _unmount_once(mount, lazy=True)


def _unmount_once(mount: Mount, *, lazy: bool) -> None:
    try:
        unmount(mount.mountpoint, lazy=lazy)
    except UsageError:
        # Its daemon, or somebody else, may have been quicker.
        if mount_at(mount.mountpoint) == mount:
            raise


def _send(process: int | None, number: signal.Signals) -> None:
    """Send a signal to the process behind a descriptor, if there is one still."""
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)


def _mountpoints(device: str) -> set[Path]:
    return {one.mountpoint for one in mounts() if one.device == device}


def _wait(
    mount: Mount, record: Record, process: int, others: Mapping[str, int], binds: set[Path]
) -> None:
    """Wait for the daemon's end; the mount was in other namespaces, and at these places, too.

    Raises NotNow.
    """
    if has_ended(process, MOMENT_S):
        return
    for path in binds & _mountpoints(mount.device):
        raise NotNow(
            f"{mount.mountpoint} is unmounted, but not at {path}, which is bound to it:"
            f" {_daemon(record)} serves that until it is unmounted, too"
        )
    left = who_else_sees(mount.device)
    for namespace in others.keys() & left.keys():
        raise NotNow(
            f"{mount.mountpoint} is unmounted, but not where process {left[namespace]} is, in a"
            f" container for instance: {_daemon(record)} serves that until it is gone there, too;"
            f" kill {record.pid} ends it at once"
        )
    if has_ended(process, END_TIMEOUT_S - MOMENT_S):
        return
    log_file = f"its log, {record.log_file}, may say why" if record.log_file else "it logs nowhere"
    raise NotNow(
        f"{mount.mountpoint} is unmounted, but {_daemon(record)} has not ended within"
        f" {END_TIMEOUT_S:.0f} s: {log_file}, and kill -KILL {record.pid} ends it"
    )

"""What daemons write down about themselves, for the commands of their own user.

One file a mount, in the user's state directory, named after the boot and the mount's device number,
which no other mount of this machine has meanwhile. Nothing that is read through a mount is believed
about it: a mount shows what others wrote.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from wbfs.daemon.mounts.table import Mount, mounts
from wbfs.model.names import Source, parse_source
from wbfs.remote.credentials import is_same_server

log = logging.getLogger(__name__)

PASSED = "/dev/fd/"
"""How the mountpoint of a mount begins that somebody else makes."""
MAX_BYTES = 1 << 20
"""Size of a record beyond which it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One mount's daemon, and what it was told.

    `started` is when the process began, in clock ticks since the boot, so that another process of
    the same number is not taken for it; both are true in the PID namespace `pids`. Sizes are in
    bytes; a `cache_size` of None is no limit.
    """

    pid: int
    started: int
    pids: str
    device: str
    mountpoint: str
    source: str
    path_prefix: str
    server: str
    offline: bool
    cache_dir: str
    cache_size: int | None
    min_free: int
    blob_gateway: str
    log_file: str | None

    @property
    def shown(self) -> Source:
        """What it shows. What daemons of other versions left out of it is nobody's."""
        return parse_source(self.source, default_entity="-", default_project="-")

    def open_process(self) -> int | None:
        """Return a descriptor of the daemon's process; None where it has ended or isn't seen."""
        if self.pids != pid_namespace():
            return None
        try:
            process = os.pidfd_open(self.pid)
        except OSError:
            return None
        # Asked once it is held: its number can't be given out again now.
        if start_of(self.pid) == self.started:
            return process
        os.close(process)
        return None

    @property
    def is_stale(self) -> bool:
        """Whether the daemon is known to have ended."""
        return self.pids == pid_namespace() and start_of(self.pid) != self.started


class Records:
    """The records of this user's mounts."""

    def __init__(self) -> None:
        state = platformdirs.user_state_path("wbfs")
        # Without a home it isn't absolute: then there are none.
        self._folder = state / "mounts" if state.is_absolute() else None

    def write(self, record: Record) -> None:
        """Keep a record; where that can't be, the log says so, since the mount goes on without."""
        try:
            with self._open_folder(make=True) as folder:
                self._remove_stale(folder)
                _write_file(folder, _file_name(record.device), json.dumps(asdict(record)).encode())
        except OSError as error:
            log.warning(
                "can't write this mount's record in %s, so wbfs prefetch PATH won't find its cache"
                " and wbfs umount won't wait for it: %s",
                self._folder or "the state directory, which has no place without a home",
                error.strerror,
            )

    def of(self, mount: Mount) -> Record | None:
        """Return the record of a mount, which may be another user's if a descriptor was passed."""
        record = self.find(mount.device)
        if record is None or not mount.is_another_users:
            return record
        # Who has mounted it is said to be its user, and not who serves it.
        return record if record.mountpoint.startswith(PASSED) else None

    def find(self, device: str) -> Record | None:
        """Return the record of the mount on a device, unless it is that of a daemon that ended."""
        try:
            with self._open_folder(make=False) as folder:
                record = _read_file(folder, _file_name(device))
        except OSError as error:
            log.debug("no record of the mount on %s: %s", device, error)
            return None
        return None if record is None or record.is_stale else record

    def of_server(self, server: str) -> Iterator[tuple[Path, Record]]:
        """Yield where mounts are that may be believed to show what is at a server."""
        for mount in mounts():
            if mount.is_ours and not mount.is_another_users and mount.root == "/":
                record = self.find(mount.device)
                if record is not None and is_same_server(record.server, server):
                    yield mount.mountpoint, record

    def remove(self, record: Record) -> None:
        """Forget a record, unless another daemon has written its own over it."""
        try:
            with self._open_folder(make=False) as folder:
                if _read_file(folder, _file_name(record.device)) == record:
                    os.unlink(_file_name(record.device), dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            log.info("a mount's record is not removed: %s", error)

    @contextmanager
    def _open_folder(self, *, make: bool) -> Iterator[int]:
        """Yield a descriptor of the folder, which only this user may write to. Raises OSError."""
        if self._folder is None:
            raise FileNotFoundError("there is no state directory")
        if make:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        folder = os.open(self._folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _refuse_others(os.fstat(folder), self._folder)
            yield folder
        finally:
            os.close(folder)

    def _remove_stale(self, folder: int) -> None:
        """Remove what daemons that were killed left behind."""
        for name in os.listdir(folder):
            if not name.startswith(_boot()):
                # After a boot, or of another machine that has the same home.
                continue
            # Another daemon may remove it meanwhile. What can't be read is left alone: a daemon of
            # another version may have written it.
            with contextlib.suppress(OSError):
                record = _read_file(folder, name)
                if record is not None and record.is_stale:
                    os.unlink(name, dir_fd=folder)


def _file_name(device: str) -> str:
    return f"{_boot()}-{device.replace(':', '-')}.json"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _refuse_others(status: os.stat_result, path: Path | str) -> None:
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(0, f"{path} is another user's, or others may write to it")


def _write_file(folder: int, name: str, contents: bytes) -> None:
    """Put a file in its place at once, whole."""
    draft = f".{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(contents)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(draft, dir_fd=folder)
        raise


def _read_file(folder: int, name: str) -> Record | None:
    """Return the record in a file; None for what is none. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=folder), "rb") as file:
        _refuse_others(os.fstat(file.fileno()), name)
        contents = file.read(MAX_BYTES)
    try:
        document: dict[str, Any] = json.loads(contents)
        return Record(**document)
    except (ValueError, TypeError) as error:
        # Of another version of wbfs, say.
        log.info("%s is no record of a mount: %s", name, error)
        return None


def pid_namespace() -> str:
    """Return what tells this process's PID namespace from others."""
    return os.readlink("/proc/self/ns/pid")


def start_of(pid: int) -> int | None:
    """Return when a process began, in clock ticks since the boot; None where it has ended."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name may have anything in it, but for what is behind its last parenthesis.
    state, *numbers = line.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else int(numbers[18])

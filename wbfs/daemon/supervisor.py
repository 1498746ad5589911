"""Who has started a daemon and is told how it goes: a waiting process, or systemd (sd_notify)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, MutableMapping

import trio

log = logging.getLogger(__name__)


class Supervisor:
    """Who is told; `watchdog_s` is how often at least, None where nobody waits for it."""

    def __init__(
        self, environ: MutableMapping[str, str], on_ready: Callable[[], None] = lambda: None
    ) -> None:
        """Find systemd's socket, and leave nothing of it there to processes that are started.

        `on_ready` tells whoever else waits that the mount answers.
        """
        self._on_ready = on_ready
        self._address = environ.pop("NOTIFY_SOCKET", "")
        interval = environ.pop("WATCHDOG_USEC", "")
        is_meant = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s: float | None = None
        if self._address and is_meant and interval.isdecimal() and int(interval):
            self.watchdog_s = int(interval) / 1e6

    def ready(self, what: str) -> None:
        """Tell that the mount answers."""
        self._on_ready()
        self._tell(f"READY=1\nSTATUS={what}")

    async def stopping(self, told: trio.Event) -> None:
        """Tell that it is being taken down, once it was told to."""
        await told.wait()
        self._tell("STOPPING=1\nSTATUS=unmounting")

    def alive(self) -> None:
        """Tell that the mount answers still."""
        self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        # A name that begins with "@" is no file's.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to:
            try:
                to.sendto(message.encode(errors="backslashreplace"), address)
            except OSError as error:
                log.warning("can't tell the supervisor at %s: %s", self._address, error)

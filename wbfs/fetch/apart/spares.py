"""Processes apart that are there before there is anything for them to do.

To start one anew takes Python a quarter of a second of a processor's time, most of it for its
imports: as long as half a gigabyte takes. A fork of this process has imported all of that, takes
a few milliseconds, and shares its memory with this one. It must be made before there are threads,
and before the key is read, a file of the mount's is open, or the mount is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
from pathlib import Path
from typing import NoReturn, Self

import trio

from wbfs.fetch.apart import worker

log = logging.getLogger(__name__)

NAME = "wbfs spare"
_SECRET = b"WANDB"
"""What the names of variables begin with that processes apart are not given."""
# In /proc/self/stat, behind the name: where arguments and environment are in memory.
_ARGUMENTS, _ENVIRONMENT = slice(45, 47), slice(47, 49)


class Spare:
    """A process that obeys over `channel`; what `trio.Process` offers of one, as far as needed."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        """Take over a child process of this one."""
        self.channel = channel
        self.returncode: int | None = None
        self._pid = pid
        self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.returncode is None:
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def wait(self) -> int:
        """Wait until it has ended, and return what `trio.Process.wait` does. One task at a time."""
        if self.returncode is None:
            await trio.lowlevel.wait_readable(self._descriptor)
            self._reap()
        assert self.returncode is not None
        return self.returncode

    def end(self) -> None:
        """End it, and wait for that."""
        self.channel.close()
        self.kill()
        self._reap()

    def _reap(self) -> None:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            os.close(self._descriptor)


class Spares:
    """Some spare processes, each to be taken once; a context manager that ends those left.

    `made` is how many there were.
    """

    def __init__(self, count: int = 0) -> None:
        """Make that many, or as many as the system has. To be called before there are threads."""
        self._spares: list[Spare] = []
        try:
            for _ in range(count):
                self._spares.append(_forked())
        except OSError as error:
            log.info("there are %d spare processes: %s", len(self._spares), error)
        self.made = len(self._spares)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while (spare := self.take()) is not None:
            spare.end()

    def take(self) -> Spare | None:
        """Return one for good, None where all are taken."""
        return self._spares.pop() if self._spares else None


def _forked() -> Spare:
    ours, theirs = socket.socketpair()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _obey(theirs.detach())
    theirs.close()
    return Spare(pid, ours)


def _obey(channel: int) -> NoReturn:
    """Be a process apart, with nothing of what this one was."""
    try:
        # What this process has allocated stays shared with the one that it was forked from.
        gc.freeze()
        # Ctrl-C at the terminal is for the mount, which ends it.
        os.setpgid(0, 0)
        # Nor does it keep a filesystem busy.
        os.chdir("/")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        for handler in [*logging.getLogger().handlers]:
            logging.getLogger().removeHandler(handler)
            handler.close()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd != channel:
                # The listing's own is closed already.
                with contextlib.suppress(OSError):
                    os.close(fd)
        _forget_secrets()
        name(NAME)
        worker.obey(channel, on_program=lambda program: name(f"{worker.__name__} {program}"))
    finally:
        os._exit(1)


def name(text: str) -> None:
    """Show this process to whoever looks at processes by that text, as far as there is room."""
    start, stop = _memory(_ARGUMENTS)
    shown = text.encode()[: stop - start - 1]
    ctypes.memset(start, 0, stop - start)
    ctypes.memmove(start, shown, len(shown))


def _forget_secrets() -> None:
    """Have neither this process nor who looks at its environment find what W&B's clients are told.

    A variable that is unset stays where the system shows it.
    """
    for variable in [one for one in os.environ if one.encode().startswith(_SECRET)]:
        del os.environ[variable]
    start, stop = _memory(_ENVIRONMENT)
    for text in ctypes.string_at(start, stop - start).split(b"\0"):
        if text.startswith(_SECRET):
            ctypes.memset(start, 0, len(text))
        start += len(text) + 1


def _memory(fields: slice) -> tuple[int, int]:
    """Return where something of this process begins and ends in its memory."""
    found = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[fields]
    start, stop = map(int, found)
    return start, stop

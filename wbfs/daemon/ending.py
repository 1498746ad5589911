"""How a mount is told to end: by signals, from before it is there until its process is gone."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import trio

from wbfs.fetch.work.background import Work
from wbfs.model.errors import WbfsError

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
UNLESS_IGNORED = (
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGXCPU,
    signal.SIGIO,
    signal.SIGPWR,
    signal.SIGSTKFLT,
)
"""What else ends programs, be it a terminal's, a batch system's, a limit's or a container's: it
would leave a dead mount."""


def heeded_signals() -> list[signal.Signals]:
    """Return the signals that end what runs: not SIGHUP under nohup, where it has been ignored."""
    return [
        *SIGNALS,
        *(number for number in UNLESS_IGNORED if signal.getsignal(number) != signal.SIG_IGN),
    ]


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Have signals noted in a list, where no task waits for them, instead of ending the process.

    Afterwards they are ignored for good: the process is about to end by itself.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    numbers = heeded_signals()
    for number in numbers:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


class Ending:
    """Whether the mount was told to end; the trio thread's.

    Until `serving` is set there is nothing to take down, and `starting` is cancelled. `failure` is
    why it ends where nobody was told that it has begun.
    """

    def __init__(self, starting: trio.CancelScope) -> None:
        self._starting = starting
        self.told = trio.Event()
        self.serving = False
        self.failure: WbfsError | None = None

    async def listen(self, noted: list[int]) -> None:
        """Wait for signals, beginning with those that were noted, until cancelled."""
        with trio.open_signal_receiver(*heeded_signals()) as signals:
            for number in noted:
                self._tell(number)
            async for number in signals:
                self._tell(number)

    async def unless_begun(self, announcing: Work[None]) -> None:
        """End the mount where nobody could be told that it answers: it would be waited for."""
        try:
            await announcing.result()
        except WbfsError as error:
            self.failure = error
            self.told.set()

    def _tell(self, number: int) -> None:
        log.info("%s: unmounting", signal.Signals(number).name)
        self.told.set()
        if not self.serving:
            self._starting.cancel()

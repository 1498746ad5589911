"""How far a command is, on the terminal's error output: a bar, or plain lines where it is none."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Protocol

from wbfs.cli.words.echo import echo
from wbfs.cli.words.sizes import show_size
from wbfs.model.text import LineFormatter, plain

log = logging.getLogger(__name__)


class Counts(Protocol):
    """How far it is: how many files and bytes are done, of how many once `is_counted`.

    How many files are `done` may not be known.
    """

    @property
    def files(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def is_counted(self) -> bool: ...
    @property
    def done(self) -> int | None: ...
    @property
    def position(self) -> int: ...


class Progress(Protocol):
    """What shows it."""

    every_s: float
    """Seconds between two calls of `show`."""

    def show(self, tally: Counts) -> None:
        """Show how far it is now."""

    def say(self, text: str) -> None:
        """Print a line for good."""

    def close(self) -> None:
        """Leave nothing on the screen but what was said."""


async def show_all_along(counts: Counts, shown: Progress) -> None:
    """Show how far it is until cancelled."""
    # Imported late, as are all that commands need once they do something.
    import trio

    while True:
        shown.show(counts)
        await trio.sleep(shown.every_s)


def progress() -> Progress:
    """Return what suits the error output."""
    return Bar() if sys.stderr.isatty() else Lines()


class Bar:
    """A bar that is drawn over."""

    every_s = 0.2

    def __init__(self) -> None:
        # Imported late: nobody else needs it.
        from tqdm import tqdm

        # Its own takes a semaphore of the system's, for bars in several processes.
        tqdm.set_lock(threading.RLock())
        # Nor does it need a thread that redraws it.
        tqdm.monitor_interval = 0
        self._bar = tqdm(
            file=sys.stderr,
            unit="B",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            mininterval=0,
        )

    def show(self, tally: Counts) -> None:
        """Draw the bar."""
        self._bar.total = tally.bytes if tally.is_counted else None
        of = f"/{tally.files:,}" if tally.is_counted else ""
        files = "" if tally.done is None else f"{tally.done:,}{of} files"
        self._bar.set_postfix_str(files, refresh=False)
        self._bar.update(tally.position - self._bar.n)
        self._bar.refresh()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.write(_line(text), file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


class Lines:
    """A line now and then."""

    every_s = 5.0

    def __init__(self) -> None:
        self._shown_at = time.monotonic()
        self._shown = 0

    def show(self, tally: Counts) -> None:
        """Print a line, unless it has just begun."""
        now, position = time.monotonic(), tally.position
        has_nothing = tally.is_counted and tally.done is None and not tally.bytes
        if has_nothing or now - self._shown_at < self.every_s:
            return
        rate = max(0, position - self._shown) / (now - self._shown_at)
        self._shown_at, self._shown = now, position
        of_files = f" of {tally.files:,}" if tally.is_counted else ""
        of_bytes = f" of {show_size(tally.bytes)}" if tally.is_counted else ""
        files = "" if tally.done is None else f"{tally.done:,}{of_files} files, "
        text = f"{files}{show_size(position)}{of_bytes}, {show_size(int(rate))}/s"
        if tally.is_counted and rate:
            text += f", {show_time((tally.bytes - position) / rate)} left"
        self.say(text)

    def say(self, text: str) -> None:
        """Print a line."""
        echo(_line(text), err=True)

    def close(self) -> None:
        """Do nothing: lines stay."""


class LoggedLines(Lines):
    """Lines in the log, for what runs in the background."""

    every_s = 30.0

    def say(self, text: str) -> None:
        """Log it."""
        log.info("%s", text)


class SayHandler(logging.Handler):
    """Has what is logged said."""

    def __init__(self, shown: Progress) -> None:
        super().__init__()
        self._shown = shown
        self.setFormatter(LineFormatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Say it in one line, and its traceback, if it has one, in lines of its own."""
        try:
            for line in self.format(record).splitlines():
                self._shown.say(line)
        except Exception:  # noqa: BLE001 - as every handler
            self.handleError(record)


def show_time(seconds: float) -> str:
    """Return a time as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _line(text: str) -> str:
    """Return the text as a line of ours; a name in it can't do anything to the terminal."""
    return "wbfs: " + plain(text)

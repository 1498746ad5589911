"""Going into the background: the command returns once what it began is under way."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from wbfs.daemon.exit_codes import MAY_GO_BETTER, FailedBehind, exit_code_of
from wbfs.model.errors import WbfsError

log = logging.getLogger(__name__)

_READY = b"\0ready"


def run_in_background(
    run: Callable[[Callable[[], None]], None], *, what: str, log_file: Path, timeout_s: float
) -> None:
    """Run `run(on_ready)` in a child and return once it calls `on_ready`, in the parent.

    `what` it is, as in "the mount", is for messages.

    An error before that is raised here as FailedBehind, in its own words; what comes after goes to
    `log_file`. Where the parent is gone by then, the child gets a SIGTERM, which `run` must end on.
    To be called before any thread is started.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_run_child(run, what, log_file, writing))
    os.close(writing)
    message = _read_all(reading, timeout_s)
    os.close(reading)
    if message is None:
        os.kill(child, signal.SIGTERM)
        raise WbfsError(f"{what} was not ready within {timeout_s:.0f} s; see {log_file}")
    if message != _READY:
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        raise FailedBehind(
            message.decode() or f"{what} ended at once; see {log_file}",
            exit_code if exit_code > 0 else MAY_GO_BETTER,
        )


def _run_child(
    run: Callable[[Callable[[], None]], None], what: str, log_file: Path, writing: int
) -> int:
    teller = _Teller(writing)

    def on_ready() -> None:
        # Not before the mount: under autofs only its own process group may mount.
        os.setsid()
        os.chdir("/")
        with open(os.devnull, "rb") as null, log_file.open("ab") as file:
            os.dup2(null.fileno(), 0)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if not teller.tell(_READY):
            log.error("whoever started %s has ended before it was ready: it ends as well", what)
            signal.raise_signal(signal.SIGTERM)

    try:
        run(on_ready)
    except WbfsError as error:
        log.error("%s", error)
        teller.tell(str(error).encode(errors="backslashreplace"))
        return exit_code_of(error)
    except BaseException:
        log.exception("%s ends on a defect", what)
        teller.tell(f"{what} failed; see {log_file}".encode(errors="backslashreplace"))
        return MAY_GO_BETTER
    finally:
        logging.shutdown()
        sys.stderr.flush()
    return 0


class _Teller:
    """Tells the waiting parent one thing."""

    def __init__(self, writing: int) -> None:
        """Take the pipe's descriptor, whose number is another file's once it was told."""
        self._writing: int | None = writing

    def tell(self, message: bytes) -> bool:
        """Tell it, where it was told nothing before; return False where nobody waits any more."""
        writing, self._writing = self._writing, None
        if writing is None:
            return True
        try:
            os.write(writing, message)
        except BrokenPipeError:
            return False
        finally:
            os.close(writing)
        return True


def _read_all(reading: int, timeout_s: float) -> bytes | None:
    """Return what the child says before it closes the pipe, or None if it takes too long."""
    message = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN | select.POLLHUP)
    while poll.poll(timeout_s * 1000):
        piece = os.read(reading, 65536)
        if not piece:
            return message
        message += piece
    return None

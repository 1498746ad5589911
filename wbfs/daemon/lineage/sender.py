"""Tells the server which versions are inputs of which runs, until it knows.

Blocking code, for one worker thread at a time. A row is on disk before the server is told; where
the cache can't be written, the server is told all the same.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from wbfs.daemon.lineage.transaction_log import open_log, read_run
from wbfs.model.errors import (
    AccessDenied,
    LoginRefused,
    NotFound,
    RemoteError,
    StoreError,
    UsageError,
    WbfsError,
)
from wbfs.model.runs import Run, Use
from wbfs.remote.api.graphql import QueryRefused
from wbfs.remote.api.runs import RunsApi
from wbfs.remote.http.transport import Deadline
from wbfs.store.known.uses import KEPT_S, Uses

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 10.0
RETRIED_S = 2.0
"""Seconds in which a question is asked again at once; later the waits between are longer."""
CLAIM_S = 15.0
"""Seconds that other mounts of the cache leave a use to the one that tells the server."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
"""Seconds before the server is told again, the first time and at most."""
LOG_WAIT_S = 3.0
LOG_EXPECTED_S = 60.0
"""Seconds before a run's log is read again, in the first minute: some 15 s after its start the SDK
writes down what it is."""
TIDIED_S = 3600.0
SERVER = ""
"""What stands for all runs, where waits are kept by run."""


class ToldByAnother(RemoteError):
    """Another process with the same cache tells the server of a use at this moment."""


@dataclass(slots=True)
class _Wait:
    """Why a run is left alone, and until which moment of the monotonic clock."""

    error: WbfsError
    since: float
    until: float = 0.0
    seconds: float = 0.0

    def lengthen(self, longest_s: float = LONGEST_WAIT_S) -> None:
        self.seconds = min(self.seconds * 2 or FIRST_WAIT_S, longest_s)
        self.until = time.monotonic() + self.seconds


class Sender:
    """What one user's runs used; `recorded`, `failed` and `pending` count what became of it."""

    def __init__(self, uses: Uses, runs: RunsApi, *, default_entity: str) -> None:
        """`default_entity` is that of runs which were told none."""
        self._uses = uses
        self._runs = runs
        self._default_entity = default_entity
        self._waits: dict[Run | str, _Wait] = {}
        # By run and artifact: what the server knows, None, or was told in vain for good.
        self._settled: dict[tuple[Run | str, str], WbfsError | None] = {}
        self._unsaved: dict[tuple[Run | str, str], Use] = {}
        self._denied: dict[Run, AccessDenied] = {}
        self._refused: Counter[tuple[Run | str, str]] = Counter()
        self._found: dict[Run | str, Run] = {}
        # Runs' logs that don't say yet whose they are, open: a run's folder may go with the run.
        self._logs: dict[str, BinaryIO] = {}
        self._loggers: dict[str, Run | None] = {}
        self._claimed: set[Use] = set()
        self._tidied_at = -TIDIED_S
        self.recorded = self.failed = self.pending = 0

    def add(self, uses: Sequence[Use]) -> None:
        """Note uses, on disk if there is a way. Another thread may be sending meanwhile."""
        self.pending += len(uses)
        try:
            self._uses.add(uses)
        except StoreError as error:
            log.warning("what runs use is not kept over a restart: %s", error)
            self._unsaved |= {_key(use): use for use in uses if _key(use) not in self._settled}

    def close(self) -> None:
        """Close what is open, once no thread sends."""
        for transaction_log in list(self._logs):
            self._close(transaction_log)

    def leave_to_others(self) -> None:
        """Let other mounts tell the server at once what a thread still waits to have told it."""
        for use in list(self._claimed):
            self._on_disk(self._uses.release, use)

    def resolved(self, use: Use) -> Use:
        """Return a use with the run that its transaction log is of, if that is known by now."""
        return replace(use, run=self._found.get(use.run, use.run))

    def why_not(self, use: Use) -> WbfsError | None:
        """Return why the server does not know of a use after the last `send`; None if it does."""
        if _key(use) in self._settled:
            return self._settled[_key(use)]
        if use not in self.read():
            return None
        waits = (self._waits.get(use.run), self._waits.get(SERVER))
        errors = [wait.error for wait in waits if wait is not None]
        return errors[0] if errors else ToldByAnother("another process tells the server")

    def send(self, *, only: Collection[Use] | None = None, at_once: bool = False) -> float | None:
        """Tell the server what is due; return the seconds until more is, None for never.

        Only some may be meant; `at_once` everything is due.
        """
        if at_once:
            for wait in self._waits.values():
                wait.until = 0.0
        by_run: dict[Run | str, list[Use]] = defaultdict(list)
        for use in self.read():
            if only is None or use in only:
                by_run[use.run].append(use)
        for run, uses in sorted(by_run.items(), key=lambda item: self._refusals(item[1])):
            if self._is_waiting(SERVER):
                break
            if not self._is_waiting(run):
                self._send_those_of(run, uses)
        left = self.read()
        self.pending = len(left)
        return self._due_in(left) if left else None

    def _refusals(self, uses: Sequence[Use]) -> int:
        """Return how often all of them were refused: such a run must not keep others back."""
        return min(self._refused[_key(self.resolved(use))] for use in uses)

    def _due_in(self, uses: Sequence[Use]) -> float:
        """Return the seconds until the first of them is due."""
        now = time.monotonic()
        due = [
            max((self._waits[of].until for of in (SERVER, run) if of in self._waits), default=0.0)
            for run in {use.run for use in uses}
        ]
        # What isn't left alone is another process's at this moment.
        return max(min(due) - now, FIRST_WAIT_S)

    def _send_those_of(self, run: Run | str, uses: Sequence[Use]) -> None:
        found = self._find(run) if isinstance(run, str) else run
        if found is None:
            return
        ours = [replace(use, run=found) for use in uses]
        try:
            # What was refused may be so for the version's sake: it must not keep others back.
            for use in sorted(ours, key=lambda use: self._refused[_key(use)]):
                self._send(use)
        except QueryRefused as error:
            # It may not be there yet: a run that is offline comes with `wandb sync`.
            for of in {run, found}:
                self._wait(of, error).lengthen()
        except WbfsError as error:
            # A key, or a bundle of certificates, may be renewed; descriptors become free.
            self._wait(SERVER, error).lengthen()
            return
        else:
            self._waits.pop(run, None)
        self._waits.pop(SERVER, None)

    def _find(self, transaction_log: str) -> Run | None:
        """Return whose log it is, and have its rows say so; None where that isn't known yet."""
        run = self._read(transaction_log)
        if run is None:
            error = RemoteError(f"{transaction_log} does not say yet which run it is of")
            wait = self._wait(transaction_log, error)
            is_early = time.monotonic() < wait.since + LOG_EXPECTED_S
            wait.lengthen(LOG_WAIT_S if is_early else LONGEST_WAIT_S)
            if not is_early:
                self._close(transaction_log)
            return None
        self._close(transaction_log)
        self._found[transaction_log] = run
        try:
            self._uses.found(transaction_log, run)
        except StoreError as error:
            log.info("%s: %s", transaction_log, error)
        for key, use in list(self._unsaved.items()):
            if use.run == transaction_log:
                del self._unsaved[key]
                self._unsaved[run, use.artifact_id] = replace(use, run=run)
        return run

    def _read(self, transaction_log: str) -> Run | None:
        log = self._logs.get(transaction_log)
        if log is None:
            try:
                log = open_log(transaction_log)
            except OSError:
                return None
            self._logs[transaction_log] = log
        return read_run(log, default_entity=self._default_entity)

    def _close(self, transaction_log: str) -> None:
        if (log := self._logs.pop(transaction_log, None)) is not None:
            log.close()

    def _send(self, use: Use) -> None:
        """Tell the server of one use. Raises WbfsError where it is to be told again."""
        run = use.run
        assert isinstance(run, Run)
        if _key(use) in self._settled or not self._claim(use):
            return
        self._claimed.add(use)
        try:
            if run in self._denied:
                raise self._denied[run]
            deadline = Deadline.after(SEND_TIMEOUT_S, retried_s=RETRIED_S)
            if self._logger_of(use.artifact_id, deadline) == run:
                self._leave_out(use, run)
                return
            self._runs.use(run, use, deadline=deadline)
        except (RemoteError, LoginRefused):
            self._refused[_key(use)] += 1
            raise
        except (AccessDenied, NotFound) as error:
            self.failed += 1
            if run not in self._denied:
                _say_given_up(use, error)
            if isinstance(error, AccessDenied):
                self._denied[run] = error
            self._give_up(use, error)
        else:
            self._settle(use, None)
            self.recorded += 1
            log.info("recorded %s as an input of %s", use.version, run.path)
            self._on_disk(self._uses.note_known, use)
        finally:
            self._claimed.discard(use)
            if _key(use) not in self._settled:
                self._on_disk(self._uses.release, use)

    def _leave_out(self, use: Use, run: Run) -> None:
        """Settle that it is no input of a run what the run has logged."""
        own = UsageError(f"{use.version} was logged by {run.path}: it is no input of that run")
        log.info("%s", own)
        self._give_up(use, own)

    def _give_up(self, use: Use, error: WbfsError) -> None:
        self._settle(use, error)
        self._on_disk(self._uses.remove, use)

    def _settle(self, use: Use, error: WbfsError | None) -> None:
        self._settled[_key(use)] = error
        # Not both pending and recorded, while the others are still to be sent.
        self.pending = max(0, self.pending - 1)

    def _logger_of(self, artifact_id: str, deadline: Deadline) -> Run | None:
        if artifact_id not in self._loggers:
            self._loggers[artifact_id] = self._runs.logged_by(artifact_id, deadline=deadline)
        return self._loggers[artifact_id]

    def _claim(self, use: Use) -> bool:
        try:
            return _key(use) in self._unsaved or self._uses.claim(use, CLAIM_S)
        except StoreError as error:
            log.info("nobody else is kept from telling the server the same: %s", error)
            return True

    def _on_disk(self, change: Callable[[Use], None], use: Use) -> None:
        try:
            change(use)
        except StoreError as error:
            log.info("what became of a use is not kept over a restart: %s", error)

    def read(self) -> list[Use]:
        """Return what is pending."""
        uses = list(self._unsaved.values())
        try:
            if time.monotonic() > self._tidied_at + TIDIED_S:
                self._tidied_at = time.monotonic()
                for use in self._uses.forget_old():
                    self.failed += 1
                    _say_given_up(use, f"in vain for {KEPT_S / 86400:.0f} days")
            uses += self._uses.pending()
        except StoreError as error:
            log.info("what is pending can't be read: %s", error)
        return [use for use in uses if _key(use) not in self._settled]

    def _is_waiting(self, of: Run | str) -> bool:
        return of in self._waits and time.monotonic() < self._waits[of].until

    def _wait(self, of: Run | str, error: WbfsError) -> _Wait:
        """Return how a run, or the server, is left alone; why is logged the first time."""
        if of not in self._waits:
            log.info("not recorded yet as a run's input: %s", error)
            self._waits[of] = _Wait(error, time.monotonic())
        self._waits[of].error = error
        return self._waits[of]


def _say_given_up(use: Use, why: object) -> None:
    run = use.run if isinstance(use.run, str) else use.run.path
    log.warning("%s is not recorded as an input of %s: %s", use.version, run, why)


def _key(use: Use) -> tuple[Run | str, str]:
    return use.run, use.artifact_id

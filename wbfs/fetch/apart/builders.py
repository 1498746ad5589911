"""Where manifests become tables: small ones in the thread that asks, large ones in a process.

Decoding keeps Python's lock, and leaves memory behind, in proportion to a manifest's size: a large
one would slow down the whole filesystem. Blocking code, run in worker threads.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from wbfs.fetch.apart import building
from wbfs.fetch.apart.building import Build, Done, Failed, FillIn
from wbfs.fetch.apart.processes import command, error_of, surroundings
from wbfs.fetch.offload import checkpoint
from wbfs.model.errors import RemoteError, StoreError
from wbfs.remote.transport import Deadline

log = logging.getLogger(__name__)

LARGE_BYTES = 2 << 20
"""Size of a manifest from which on a process is started: that takes as long as decoding so much."""
PATIENCE_S = 60.0
SLOWEST_BYTES_PER_S = 1 << 20
"""Seconds that a process may take, and what it does at the least of a manifest after those."""
POLL_S = 0.1
END_S = 10.0
SHOWN_BYTES = 2000


class Builders:
    """Obeys orders, one process at a time: each may take hundreds of megabytes."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._running: tuple[subprocess.Popen[bytes], Build | FillIn] | None = None
        self._closed = False

    def obey(self, order: Build | FillIn, *, size: int) -> Done:
        """Do what is ordered of a manifest of `size` bytes.

        Raises RemoteProtocolError, StoreError, StoreFull.
        """
        if size < LARGE_BYTES:
            return building.obey(order)
        deadline = Deadline.after(PATIENCE_S + size / SLOWEST_BYTES_PER_S)
        with self._one_at_a_time(deadline):
            return self._in_process(order, deadline)

    @contextmanager
    def _one_at_a_time(self, deadline: Deadline) -> Iterator[None]:
        while not self._turn.acquire(timeout=POLL_S):
            checkpoint()
            if deadline.expired:
                raise StoreError("other large manifests are being read: try again in a while")
        try:
            yield
        finally:
            self._turn.release()

    def _in_process(self, order: Build | FillIn, deadline: Deadline) -> Done:
        with _memory_file("answer") as answer, _memory_file("complaints") as complaints:
            with self._started(order, answer, complaints) as process:
                while (code := _wait(process)) is None:
                    checkpoint()
                    if deadline.expired:
                        raise StoreError("the process that reads the manifest takes too long")
            if self._closed:
                raise _closed()
            return _read_answer(code, answer, complaints)

    @contextmanager
    def _started(
        self, order: Build | FillIn, answer: IO[bytes], complaints: IO[bytes]
    ) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            if self._closed:
                raise _closed()
            try:
                process = subprocess.Popen(
                    [*command(building), order.table],
                    stdin=subprocess.PIPE,
                    stdout=answer,
                    stderr=complaints,
                    pass_fds=(order.manifest_fd,) if isinstance(order, Build) else (),
                    **surroundings(),
                )
            except OSError as error:
                raise StoreError(
                    f"can't start the process that reads the manifest: {error.strerror}"
                ) from error
            self._running = process, order
        try:
            assert process.stdin is not None
            # It stays open: its end tells the process that nobody waits any more. A process that
            # has ended already is noticed by its exit code.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(msgspec.to_builtins(order)).encode() + b"\n")
                process.stdin.flush()
            yield process
        finally:
            self._running = None
            _end(process)

    def close(self) -> None:
        """End the process that is at work, and remove what it has written; no other is started."""
        with self._lock:
            self._closed = True
            running = self._running
        if running is not None:
            process, order = running
            _end(process)
            # The thread that waits for it may not come to that before the program ends.
            Path(order.table).unlink(missing_ok=True)


def _closed() -> RemoteError:
    return RemoteError("the mount is being taken down")


def _memory_file(name: str) -> IO[bytes]:
    return open(os.memfd_create(name), "w+b")


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a process once it has ended."""
    try:
        return process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(END_S)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _read_answer(code: int, answer: IO[bytes], complaints: IO[bytes]) -> Done:
    """Return what a process said. Raises what it raised, and StoreError where it said nothing."""
    answer.seek(0)
    try:
        said = msgspec.convert(json.loads(answer.read()), type=Done | Failed)
    except (ValueError, msgspec.ValidationError):
        said = None
    if code != 0 or said is None:
        complaints.seek(0)
        log.error(
            "the process that reads a manifest failed (%d): %s",
            code,
            complaints.read()[-SHOWN_BYTES:].decode(errors="replace").strip(),
        )
        how = f"was ended by signal {-code}" if code < 0 else f"failed with {code}"
        raise StoreError(f"the process that reads the manifest {how}: is there enough memory?")
    if isinstance(said, Failed):
        raise error_of(said.kind, said.text)
    return said

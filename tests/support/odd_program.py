"""What a process apart does in tests: whatever can go wrong."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from wbfs.fetch.apart.worker import Program
from wbfs.model.errors import RemoteError
from wbfs.remote.http.bytes import ObjectMissing
from wbfs.remote.references.objects import ObjectRequest, Refused

THREADS = 4
SECRET = "https://store.example/x?signature=secret"


class Unpicklable(Exception):
    """Holds what can't be sent."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.lock = threading.Lock()


class Unmakeable(Exception):
    """Can be sent, and not be received."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


def refused() -> Refused:
    """Return the answer of a store that understood and won't."""
    request = ObjectRequest(url=SECRET, signed=True)
    return Refused.answered(request, status=400, code="InvalidArgument", region="")


ERRORS: dict[str, Callable[[], BaseException]] = {
    "missing": lambda: ObjectMissing("the object is gone"),
    "refused": refused,
    "remote": lambda: RemoteError("no answer"),
    "key": lambda: KeyError("x"),
    "memory": MemoryError,
    "unpicklable": Unpicklable,
    "unmakeable": lambda: Unmakeable(SECRET, "!"),
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
}


@dataclass(frozen=True, kw_only=True)
class Odd:
    """What the process is to do before it answers with `answer`."""

    answer: object = None
    error: str = ""
    number: int = 0
    prints: int = 0
    sleep_s: float = 0.0
    dies: bool = False


def obey(order: Odd) -> object:
    """Do so."""
    for _ in range(order.prints):
        print("garbage" * 1000)
        print("garbage" * 1000, file=sys.stderr)
        os.write(1, b"\0\0\0\1garbage")
        warnings.warn("garbage", stacklevel=1)
        logging.getLogger().error("garbage")
    if order.number:
        os.kill(os.getpid(), order.number)
    if order.dies:
        os._exit(3)
    time.sleep(order.sleep_s)
    if order.error:
        raise ERRORS[order.error]()
    return order.answer


def prepare() -> Callable[[Odd], object]:
    """Return what obeys."""
    return obey


def prepare_nothing() -> Callable[[Odd], object]:
    """Fail before there is an order."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def program(
    *, silent_s: float = 100.0, idle_s: float = 100.0, is_bad: bool = False
) -> Program[Odd, object]:
    """Return a program that a process is started with, which needs this folder on its path."""
    return Program(
        name="odd things",
        prepare=prepare_nothing if is_bad else prepare,
        threads=THREADS,
        silent_s=silent_s,
        idle_s=idle_s,
    )

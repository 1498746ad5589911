"""A function run in a process that can be left behind, since it looks at a mount that may hang."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TypeVar

from wbfs.daemon.mounts.looking.health import ANSWER_BYTES, ends, leave_behind
from wbfs.model.errors import NotNow, WbfsError

T = TypeVar("T")


def run_apart(function: Callable[[], T], *, timeout_s: float, doing: str) -> T:
    """Return what a function returns in another process; both have one thread only.

    Raises what it raises of ours, and NotNow where it takes longer or ends otherwise.
    """
    answer = os.memfd_create("answer")
    child = os.fork()
    if child == 0:
        _answer(function, answer)
    if not ends(child, timeout_s):
        leave_behind(child)
        raise NotNow(
            f"can't {doing}: no answer within {timeout_s:g} s; wbfs status says whether the mount"
            " hangs, or the server is away"
        )
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise NotNow(f"can't {doing}: the process that looked ended with {code}; try again")
    # It comes from a fork of this very process.
    found = pickle.loads(os.pread(answer, ANSWER_BYTES, 0))
    os.close(answer)
    if isinstance(found, WbfsError):
        raise found
    return found  # type: ignore[no-any-return]


def _answer(function: Callable[[], object], answer: int) -> None:
    """Write down what a function returns, or raises of ours, and end."""
    code = 1
    try:
        # Nothing of ours is open here, so that nobody waits for what is left behind.
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        try:
            found = function()
        except WbfsError as error:
            found = error
        os.write(answer, pickle.dumps(found))
        code = 0
    finally:
        os._exit(code)

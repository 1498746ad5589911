"""Judges what programs got: right, or an error that the schedule explains, and in time.

The schedule knows what was done to the server and the mounts and when, in seconds of the monotonic
clock; everything else that a program sees is a violation.
"""

from __future__ import annotations

import errno
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from contents import Content
from faults import LATE, NOT_MOUNTED, Cause, Fault

from wbfs.remote.http.bytes import SLOWEST_BYTES_PER_S

NO_ROOM = re.compile(r"can't be kept to be checked|there is no room in the cache|the disk is full")
SHOWN_STEPS, SHOWN_READS = 80, 25
SLACK_S = 30.0
"""Seconds that a busy machine may add to an operation."""


class Violation(AssertionError):
    """A promise of the mount was broken; says which, with the last steps."""


@dataclass(slots=True)
class Window:
    """From when until when something is on, None for on still; of all mounts, or of one."""

    what: str
    causes: frozenset[Cause]
    since: float
    mount: int | None = None
    lies: bool = False
    brings_some: bool = False
    until: float | None = None

    def touches(self, began: float, ended: float, aftermath_s: float) -> bool:
        """Whether it was on, or had ended a moment before, at some time between the two."""
        until = float("inf") if self.until is None else self.until
        return self.since <= ended and began <= until + aftermath_s


@dataclass(slots=True)
class Judge:
    """What was done, and what may follow from it.

    `timeout_s` and `alias_ttl_s` are the mounts' settings; with `verify_always` no wrong byte may
    ever be seen.
    """

    timeout_s: float
    alias_ttl_s: float
    verify_always: bool
    began: float = field(default_factory=time.monotonic)
    steps: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=SHOWN_STEPS))
    reads: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=SHOWN_READS))
    windows: list[Window] = field(default_factory=list)
    checked: dict[Content, float] = field(default_factory=dict)
    figures: Counter[str] = field(default_factory=Counter)

    @property
    def patience_s(self) -> float:
        """How long one call may take: a page that fails is asked for once more by itself."""
        return 2 * self.timeout_s + SLACK_S

    def patience_of(self, request: dict[str, Any], began: float, ended: float) -> float:
        """How long a reader's call may take that was made between two moments."""
        size = Content(*request.get("content", (0, 0))).size
        come_slowly = any(
            window.brings_some and window.touches(began, ended, self.aftermath_s)
            for window in self.windows
        )
        return self.patience_s + (size / SLOWEST_BYTES_PER_S if come_slowly else 0)

    @property
    def aftermath_s(self) -> float:
        """How long after its end a fault may still show: what waited for it has its deadline."""
        return self.timeout_s + SLACK_S / 2

    def note(self, step: str) -> None:
        """Write a step down, for the report of a violation."""
        self.steps.append((time.monotonic() - self.began, step))

    def note_read(self, read: str) -> None:
        """Write down that something is read; there are many of that."""
        self.reads.append((time.monotonic() - self.began, read))

    def begin(self, what: str, fault: Fault) -> Window:
        """Note that a fault is on from now."""
        window = Window(what, fault.causes, time.monotonic(), lies=fault.lies)
        window.brings_some = fault.brings_some
        self.windows.append(window)
        return window

    def begin_without_mount(self, what: str, mount: int) -> Window:
        """Note that a mount is not there from now."""
        window = Window(what, NOT_MOUNTED, time.monotonic(), mount)
        self.windows.append(window)
        return window

    def has_checked(self, content: Content) -> None:
        """Note that a large file is known to be whole and right by now, the server lying no more.

        Who opens it from now on must get nothing but right bytes.
        """
        self.checked[content] = time.monotonic()

    def broken(self, what: str) -> Violation:
        """Return the violation, with the steps that led to it."""
        lines = sorted([*self.steps, *self.reads])
        steps = "\n".join(f"{at_s:8.2f}  {step}" for at_s, step in lines)
        now = time.monotonic() - self.began
        return Violation(f"{what}\nat {now:.2f} s, after these steps:\n{steps}")

    def explain(self, cause: Cause, mount: int | None, began: float, ended: float) -> str | None:
        """Return what may have caused an error between two moments; None if nothing may have."""
        for window in self.windows:
            concerns = window.mount is None or window.mount == mount
            if (
                concerns
                and cause in window.causes
                and window.touches(began, ended, self.aftermath_s)
            ):
                return window.what
        return None

    def is_disturbed(self, began: float, ended: float) -> bool:
        """Whether anything that may cause errors was on between two moments, or just before."""
        return any(
            window.causes and window.touches(began, ended, self.aftermath_s)
            for window in self.windows
        )

    def may_lie(self, content: Content, opened: float, ended: float) -> bool:
        """Whether bytes of a file that was opened and read then may be wrong."""
        if self.verify_always or not content.is_large:
            return False
        checked = self.checked.get(content, 0.0)
        return any(
            window.lies
            and window.since <= ended
            and not (window.until is not None and window.until < checked < opened)
            for window in self.windows
        )

    def has_no_room(self, content: Content, log: str) -> bool:
        """Whether a file can't be read since it has to be checked first and can't be kept for that.

        Any other is read past a cache that has no room; `log` is what the mount said.
        """
        is_checked_first = self.verify_always or any(window.lies for window in self.windows)
        return content.is_large and is_checked_first and bool(NO_ROOM.search(log))

    def judge(
        self, request: dict[str, Any], answer: dict[str, Any], mount: int, log: Callable[[], str]
    ) -> None:
        """Raise Violation unless the answer to a reader's request is right, or explained.

        `log` returns what the mount logged lately.
        """
        what = f"{request['do']} {request.get('how', '')} of {request['path']!r}"
        began, ended = answer["began"], answer["ended"]
        patience_s = self.patience_of(request, began, ended)
        if answer["longest_s"] > patience_s:
            raise self.broken(f"{what} took {answer['longest_s']:.1f} s, > {patience_s:.1f} s")
        if (cause := answer.get("errno")) is not None:
            name = cause if isinstance(cause, str) else errno.errorcode.get(cause, str(cause))
            self.figures[name] += 1
            content = Content(*request.get("content", (0, 0)))
            is_explained = self.explain(cause, mount, began, ended) is not None
            if not is_explained and not (cause in LATE and self.has_no_room(content, log())):
                seconds = f"{began - self.began:.2f} to {ended - self.began:.2f} s"
                raise self.broken(f"{what}: {name}, which nothing explains, {seconds}")
        elif "short" in answer:
            raise self.broken(f"{what}: ends at {answer['short']}, before its end")
        elif "wrong" in answer:
            content = Content(*request["content"])
            if not self.may_lie(content, answer["opened"], ended):
                self.figures["wrong bytes"] += 1
                raise self.broken(f"{what}: wrong bytes at {answer['wrong']} of {content.size}")
            self.figures["unchecked bytes that were wrong, under a lying server"] += 1
        else:
            self.figures["right"] += 1

    def old_names_until(self, now: float) -> float:
        """Return the moment whose names a mount may still believe at `now`.

        Names are asked for anew after their time to live, or once the server can be had again.
        """
        moment = now - self.alias_ttl_s - SLACK_S / 2
        for window in sorted(self.windows, key=lambda one: one.since, reverse=True):
            if (
                window.mount is None
                and window.causes
                and window.touches(moment, now, self.aftermath_s)
            ):
                moment = min(moment, window.since - self.alias_ttl_s - SLACK_S / 2)
        return moment

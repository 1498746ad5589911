"""What a turn of a contender gives: samples, or why there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class Skipped(Exception):
    """Something can't be measured here, and why."""


class Failed(Exception):
    """A contender did not do what it was to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement; `more` are figures of that workload, or of a mount's daemon, alone."""

    seconds: float
    bytes: int = 0
    count: int = 0
    more: Mapping[str, float] = field(default_factory=dict)


Turn = Callable[[], Mapping[str, Sample]]
"""One turn of one contender: its samples by case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Something to do, by several contenders in turns.

    note: says what is to be told of a sample besides its time and its rate. about: what is to be
    told of all of it.
    """

    title: str
    turns: Mapping[str, Turn]
    note: Callable[[Mapping[str, float]], str] = lambda more: ""
    about: str = ""

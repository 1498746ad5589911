"""What wbfs must reach, each requirement with the workload that decides it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from benchmark.contenders import (
    ARIA2C,
    ARIA2C_CHECKED,
    BARE,
    CURL,
    LEAST,
    LEAST_BATCH,
    LEAST_GET,
    NATIVE,
    RCLONE_DEFAULTS,
    RCLONE_TUNED,
    SDK,
    WBFS,
    WBFS_RUN,
)
from benchmark.findings import Findings
from benchmark.workloads.growth import GROWTH, growth_rows

MIB = 1 << 20
PASS, FAIL = "PASS", "FAIL"
LIMIT = "LIMIT"
"""Not met, nor can it be here: the fastest turn of who does the least misses it as well."""
RCLONES = (RCLONE_DEFAULTS, RCLONE_TUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLeastAsFast:
    """The contender takes at most the peer's time divided by `factor`.

    Of several peers it is the fastest's. peer_case: what of the peer is compared, the same case if
    it is empty. least: the program that does what can't be left out, and no more.
    """

    workload: str
    case: str
    peers: tuple[str, ...]
    factor: float
    peer_case: str = ""
    contender: str = WBFS
    least: str = ""

    def __str__(self) -> str:
        peer = " and ".join(self.peers)
        peer += f", {self.peer_case}" if self.peer_case else ""
        return f"{self.workload}, {self.case}: {self.contender} at least {self.factor:.3g} x {peer}"

    def check(self, findings: Findings) -> tuple[bool, str] | None:
        """Return whether it is so and what was found; None where that was not measured."""
        ours = findings.median(self.workload, self.case, self.contender)
        theirs = [
            findings.median(self.workload, self.peer_case or self.case, peer) for peer in self.peers
        ]
        measured = [seconds for seconds in theirs if seconds is not None]
        if ours is None or len(measured) < len(self.peers):
            return None
        ratio = min(measured) / ours
        return ratio >= self.factor, f"{ratio:.2f} x ({ours:.2f} s and {min(measured):.2f} s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AtMost:
    """One of the contender's figures, or its time in seconds, is not above a limit.

    least: as in AtLeastAsFast.
    """

    workload: str
    case: str
    figure: str = ""
    limit: float
    unit: str
    divisor: float = 1.0
    contender: str = WBFS
    least: str = ""

    def __str__(self) -> str:
        return f"{self.workload}, {self.case}: at most {self.limit / self.divisor:g} {self.unit}"

    def check(self, findings: Findings) -> tuple[bool, str] | None:
        """Return whether it is so and what was found; None where that was not measured."""
        if self.figure:
            found = findings.figure(self.workload, self.case, self.contender, self.figure)
        else:
            found = findings.median(self.workload, self.case, self.contender)
        if found is None:
            return None
        return found <= self.limit, f"{found / self.divisor:.2f} {self.unit}"


REQUIREMENTS: tuple[AtLeastAsFast | AtMost, ...] = (
    AtLeastAsFast(workload="sequential", case="cold", peers=(CURL,), factor=0.9, least=LEAST),
    AtLeastAsFast(workload="sequential", case="cold", peers=RCLONES, factor=1),
    AtLeastAsFast(workload="sequential", case="warm", peers=(NATIVE,), factor=0.9, least=LEAST),
    AtLeastAsFast(workload="sequential-wan", case="cold", peers=(CURL,), factor=6),
    AtLeastAsFast(workload="sequential-wan", case="cold", peers=RCLONES, factor=1, least=LEAST),
    AtMost(
        workload="first-bytes-wan", case="cold", figure="round_trips", limit=3, unit="round trips"
    ),
    AtMost(
        workload="first-bytes-wan",
        case="cold",
        figure="moved",
        limit=MIB,
        unit="MiB moved",
        divisor=MIB,
    ),
    AtMost(
        workload="mmap-wan",
        case="cold",
        figure="moved_for_each",
        limit=2,
        unit="bytes moved for each that is wanted",
    ),
    AtLeastAsFast(workload="small", case="in order, page cache", peers=RCLONES, factor=5),
    AtLeastAsFast(workload="small", case="shuffled, page cache", peers=RCLONES, factor=5),
    AtLeastAsFast(workload="small", case="in order, not listed", peers=(BARE,), factor=1 / 2),
    AtLeastAsFast(workload="small", case="shuffled, not listed", peers=(BARE,), factor=1 / 2),
    *(
        AtLeastAsFast(
            workload="small",
            case=f"{order}, not listed",
            peers=(WBFS,),
            factor=0.9,
            contender=WBFS_RUN,
        )
        for order in ("in order", "shuffled")
    ),
    *(
        requirement
        for workload in ("get", "get-wan")
        for requirement in (
            AtLeastAsFast(
                workload=workload, case="large", peers=(ARIA2C,), factor=1, least=LEAST_GET
            ),
            AtLeastAsFast(workload=workload, case="large", peers=(ARIA2C_CHECKED,), factor=1),
            AtLeastAsFast(workload=workload, case="small", peers=(SDK,), factor=2),
        )
    ),
    AtLeastAsFast(workload="shuffled-wan", case="cold", peers=(RCLONE_DEFAULTS,), factor=8),
    AtLeastAsFast(workload="shuffled-wan", case="cold", peers=(RCLONE_TUNED,), factor=5),
    AtLeastAsFast(workload="shuffled-wan", case="cold", peers=(SDK,), factor=2.5),
    AtMost(workload="first-batch-wan", case="first batch", limit=1.6, unit="s", least=LEAST_BATCH),
    AtLeastAsFast(workload="first-batch-wan", case="first batch", peers=(RCLONE_TUNED,), factor=1),
    AtLeastAsFast(workload="epochs-wan", case="epoch 1", peers=(SDK,), factor=1 / 1.1),
    AtLeastAsFast(
        workload="epochs-wan", case="first batch", peers=(SDK,), factor=100, peer_case="epoch 1"
    ),
    AtLeastAsFast(workload="epochs-wan", case="epoch 2", peers=(RCLONE_TUNED,), factor=4),
    AtLeastAsFast(workload="walk", case="find, again", peers=(NATIVE,), factor=1 / 2),
    AtLeastAsFast(workload="walk", case="ls -lR, again", peers=(NATIVE,), factor=1 / 2),
    AtMost(
        workload="stages",
        case="million loaded",
        figure="helpers",
        limit=1536 * MIB,
        unit="MiB of helpers",
        divisor=MIB,
    ),
    AtMost(workload="start", case="empty cache", limit=1, unit="s"),
    AtMost(workload="start", case="again", limit=1, unit="s"),
)
DAEMON_BYTES = 200 * MIB
"""What a mount's daemon may have at its peak, in whatever workload."""


def requirements(findings: Findings, names: Iterable[str]) -> list[dict[str, str]]:
    """Return, for the workloads that were run, which requirements are met."""
    rows: list[dict[str, str]] = []
    for requirement in REQUIREMENTS:
        if requirement.workload in names:
            passed, value = requirement.check(findings) or (False, "not measured")
            verdict = PASS if passed else FAIL
            limit = None if passed else _limit(requirement, findings)
            if limit is not None:
                can_be, least_value = limit
                verdict = FAIL if can_be else LIMIT
                value += f"; the {requirement.least} at its fastest: {least_value}"
            rows.append(_row(str(requirement), value, verdict))
    if GROWTH in names:
        grown = growth_rows(findings)
        worse = [name for name, _, passed in grown if not passed]
        rows.append(
            _row(
                "growth: no cost grows by more than n log n",
                f"{len(grown)} costs" + (f", and {'; '.join(worse)} do" if worse else ""),
                PASS if grown and not worse else FAIL,
            )
        )
    most = findings.most(WBFS, "VmHWM")
    if most is not None:
        peak, workload = most
        rows.append(
            _row(
                f"all mounts: daemon at most {DAEMON_BYTES // MIB} MiB at its peak",
                f"{peak / MIB:.0f} MiB, in {workload}",
                PASS if peak <= DAEMON_BYTES else FAIL,
            )
        )
    return rows


def _limit(requirement: AtLeastAsFast | AtMost, findings: Findings) -> tuple[bool, str] | None:
    """Return what is found of the fastest turn of who does the least.

    None where there is none, or where wbfs is faster: then that is no bound.
    """
    case = requirement.workload, requirement.case
    ours, turns = findings.median(*case, WBFS), findings.samples.get((*case, requirement.least))
    if ours is None or not turns:
        return None
    fastest = min(turns, key=lambda sample: sample.seconds)
    if fastest.seconds > ours:
        return None
    alone = Findings(samples={**findings.samples, (*case, requirement.least): [fastest]})
    return replace(requirement, contender=requirement.least).check(alone)


def _row(requirement: str, found: str, verdict: str) -> dict[str, str]:
    return {"requirement": requirement, "found": found, "verdict": verdict}

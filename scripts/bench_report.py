"""What a run found: medians, ratios, the table, the requirements, the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench_contenders import Sample
from bench_training import RCLONE_DEFAULTS
from bench_workloads import BARE, CURL, NATIVE, RCLONE, SDK, WBFS, Workload

from wbfs import __version__

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLeastAsFast:
    """wbfs takes at most the peer's time divided by `factor`; the peer's of `peer_case`, if any."""

    workload: str
    case: str
    peer: str
    factor: float
    peer_case: str = ""

    def __str__(self) -> str:
        peer = f"{self.peer}, {self.peer_case}" if self.peer_case else self.peer
        return f"{self.workload}, {self.case}: wbfs at least {self.factor:.3g} x {peer}"

    def check(self, findings: Findings) -> tuple[bool, str] | None:
        """Return whether it is so and what was found; None where that was not measured."""
        ours = findings.median(self.workload, self.case, WBFS)
        theirs = findings.median(self.workload, self.peer_case or self.case, self.peer)
        if ours is None or theirs is None:
            return None
        ratio = theirs / ours
        return ratio >= self.factor, f"{ratio:.2f} x"


@dataclass(frozen=True, slots=True, kw_only=True)
class AtMost:
    """One of wbfs's figures is not above a limit."""

    workload: str
    case: str
    figure: str
    limit: float
    unit: str
    divisor: float = 1.0

    def __str__(self) -> str:
        return f"{self.workload}, {self.case}: at most {self.limit / self.divisor:g} {self.unit}"

    def check(self, findings: Findings) -> tuple[bool, str] | None:
        """Return whether it is so and what was found; None where that was not measured."""
        found = findings.figure(self.workload, self.case, WBFS, self.figure)
        if found is None:
            return None
        return found <= self.limit, f"{found / self.divisor:.2f} {self.unit}"


REQUIREMENTS: tuple[AtLeastAsFast | AtMost, ...] = (
    AtLeastAsFast(workload="sequential", case="cold", peer=CURL, factor=0.9),
    AtLeastAsFast(workload="sequential", case="cold", peer=RCLONE, factor=4),
    AtLeastAsFast(workload="sequential", case="warm", peer=NATIVE, factor=0.9),
    AtLeastAsFast(workload="sequential-wan", case="cold", peer=CURL, factor=6),
    AtLeastAsFast(workload="sequential-wan", case="cold", peer=RCLONE, factor=2),
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
    AtLeastAsFast(workload="small", case="in order, page cache", peer=RCLONE, factor=5),
    AtLeastAsFast(workload="small", case="shuffled, page cache", peer=RCLONE, factor=5),
    AtLeastAsFast(workload="small", case="in order, not listed", peer=BARE, factor=1 / 2),
    AtLeastAsFast(workload="small", case="shuffled, not listed", peer=BARE, factor=1 / 2),
    AtLeastAsFast(workload="get", case="large", peer=SDK, factor=1),
    AtLeastAsFast(workload="get", case="small", peer=SDK, factor=1),
    AtLeastAsFast(workload="shuffled-wan", case="cold", peer=RCLONE_DEFAULTS, factor=10),
    AtLeastAsFast(workload="epochs-wan", case="epoch 1", peer=SDK, factor=1 / 1.1),
    AtLeastAsFast(
        workload="epochs-wan", case="first batch", peer=SDK, factor=100, peer_case="epoch 1"
    ),
    AtMost(
        workload="memory",
        case="after all",
        figure="VmRSS",
        limit=200 * MIB,
        unit="MiB resident",
        divisor=MIB,
    ),
    AtLeastAsFast(workload="walk", case="find, again", peer=NATIVE, factor=1 / 2),
    AtLeastAsFast(workload="walk", case="ls -lR, again", peer=NATIVE, factor=1 / 2),
    AtMost(
        workload="stages",
        case="million loaded",
        figure="VmHWM",
        limit=200 * MIB,
        unit="MiB at its peak",
        divisor=MIB,
    ),
    AtMost(
        workload="stages",
        case="million loaded",
        figure="helpers",
        limit=1536 * MIB,
        unit="MiB of helpers",
        divisor=MIB,
    ),
    AtMost(
        workload="stages",
        case="walked again",
        figure="VmRSS",
        limit=200 * MIB,
        unit="MiB resident",
        divisor=MIB,
    ),
    AtMost(workload="start", case="empty cache", figure="first_answer_s", limit=1, unit="s"),
    AtMost(workload="start", case="again", figure="first_answer_s", limit=1, unit="s"),
)


@dataclass(slots=True, kw_only=True)
class Findings:
    """The samples of a run by workload, case and contender, and what could not be measured."""

    samples: dict[tuple[str, str, str], list[Sample]] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, workload: str, contender: str, turn: Mapping[str, Sample]) -> None:
        """Keep what one turn gave."""
        for case, sample in turn.items():
            self.samples.setdefault((workload, case, contender), []).append(sample)

    def median(self, workload: str, case: str, contender: str) -> float | None:
        """Return the median of the seconds, None if there are none."""
        found = self.samples.get((workload, case, contender))
        return statistics.median(sample.seconds for sample in found) if found else None

    def figure(self, workload: str, case: str, contender: str, name: str) -> float | None:
        """Return the median of another figure, None if there is none."""
        found = self.samples.get((workload, case, contender))
        return statistics.median(sample.more[name] for sample in found) if found else None

    def of(self, workload: str) -> list[tuple[str, str, list[Sample]]]:
        """Return a workload's cases, contenders and samples: by case, in the order of the turns."""
        rows = [
            (case, name, found)
            for (of, case, name), found in self.samples.items()
            if of == workload
        ]
        cases = list(dict.fromkeys(case for case, _, _ in rows))
        return sorted(rows, key=lambda row: cases.index(row[0]))


def table(name: str, workload: Workload, findings: Findings) -> str:
    """Return what a workload gave, for people."""
    lines = [f"{name}: {workload.title}"]
    head = f"  {'case':<22}{'contender':<20}{'median':>10}  {'from .. to':<17}"
    lines += [f"{head}{'MB/s':>8}{'a second':>10}{'x wbfs':>8}"]
    for case, contender, found in findings.of(name):
        seconds = [sample.seconds for sample in found]
        median = statistics.median(seconds)
        ours = findings.median(name, case, WBFS)
        rate = f"{found[0].bytes / median / 1e6:,.1f}" if found[0].bytes else ""
        count = f"{found[0].count / median:,.0f}" if found[0].count else ""
        ratio = f"{ours / median:.2f}" if ours else ""
        span = f"{min(seconds):.3f} .. {max(seconds):.3f}"
        note = workload.note(medians(found))
        line = f"  {case:<22}{contender:<20}{median:>8.3f} s  {span:<17}"
        lines.append(f"{line}{rate:>8}{count:>10}{ratio:>8}  {note}".rstrip())
    for kind, found_of in (("skipped", findings.skipped), ("FAILED", findings.failed)):
        lines += [
            f"  {contender}: {kind}: {reason}"
            for (of, contender), reason in found_of.items()
            if of == name
        ]
    return "\n".join(lines)


def medians(samples: Iterable[Sample]) -> dict[str, float]:
    """Return the median of each figure that is one workload's alone."""
    rows = [sample.more for sample in samples]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def requirements(findings: Findings, names: Iterable[str]) -> list[dict[str, object]]:
    """Return, for the workloads that were run, which requirements are met."""
    rows: list[dict[str, object]] = []
    for requirement in REQUIREMENTS:
        if requirement.workload in names:
            found = requirement.check(findings)
            passed, value = found if found is not None else (False, "not measured")
            rows.append({"requirement": str(requirement), "found": value, "passed": passed})
    return rows


def write_json(
    path: Path,
    *,
    findings: Findings,
    settings: Mapping[str, object],
    met: list[dict[str, object]],
) -> None:
    """Write everything that was measured."""
    document = {
        "wbfs": __version__,
        "machine": {
            "cpus": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        **settings,
        "results": [
            {
                "workload": workload,
                "case": case,
                "contender": contender,
                "median_s": findings.median(workload, case, contender),
                "runs": [asdict(sample) for sample in samples],
            }
            for (workload, case, contender), samples in findings.samples.items()
        ],
        "skipped": [
            {"workload": workload, "contender": contender, "reason": reason}
            for (workload, contender), reason in findings.skipped.items()
        ],
        "failed": [
            {"workload": workload, "contender": contender, "reason": reason}
            for (workload, contender), reason in findings.failed.items()
        ],
        "requirements": met,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")

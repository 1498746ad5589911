"""What a run found: samples by workload, case and contender, their medians, what failed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benchmark.samples import Sample


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

    def most(self, contender: str, name: str) -> tuple[float, str] | None:
        """Return a figure where it was largest in all of the run, and which workload's it was."""
        found = [
            (sample.more[name], workload)
            for (workload, _, of), samples in self.samples.items()
            for sample in samples
            if of == contender and name in sample.more
        ]
        return max(found, default=None)

    def of(self, workload: str) -> list[tuple[str, str, list[Sample]]]:
        """Return a workload's cases, contenders and samples: by case, in the order of the turns."""
        rows = [
            (case, name, found)
            for (of, case, name), found in self.samples.items()
            if of == workload
        ]
        cases = list(dict.fromkeys(case for case, _, _ in rows))
        return sorted(rows, key=lambda row: cases.index(row[0]))


def medians(samples: Iterable[Sample]) -> dict[str, float]:
    """Return the median of each figure that is not every sample's."""
    rows = [sample.more for sample in samples]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}

"""What is told of a run: a table of each workload for people, a file with all figures."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from benchmark.contenders import WBFS
from benchmark.findings import Findings, medians
from benchmark.samples import Workload
from wbfs import __version__

MIB = 1 << 20


def table(name: str, workload: Workload, findings: Findings) -> str:
    """Return what a workload gave, for people."""
    lines = [f"{name}: {workload.title}"]
    head = f"  {'case':<22}{'contender':<20}{'median':>10}  {'from .. to':<19}{'turns':>5}"
    lines += [f"{head}{'MB/s':>8}{'a second':>10}{'x wbfs':>8}"]
    for case, contender, found in findings.of(name):
        seconds = [sample.seconds for sample in found]
        median = statistics.median(seconds)
        ours = findings.median(name, case, WBFS)
        rate = f"{found[0].bytes / median / 1e6:,.1f}" if found[0].bytes else ""
        count = f"{found[0].count / median:,.0f}" if found[0].count else ""
        ratio = f"{ours / median:.2f}" if ours else ""
        span = f"{min(seconds):.3f} .. {max(seconds):.3f}"
        line = f"  {case:<22}{contender:<20}{median:>8.3f} s  {span:<19}{len(found):>5}"
        told = _told(workload, medians(found))
        lines.append(f"{line}{rate:>8}{count:>10}{ratio:>8}  {told}".rstrip())
    for kind, found_of in (("skipped", findings.skipped), ("FAILED", findings.failed)):
        lines += [
            f"  {contender}: {kind}: {reason}"
            for (of, contender), reason in found_of.items()
            if of == name
        ]
    if workload.about:
        lines.append(f"  {workload.about}")
    return "\n".join(lines)


def _told(workload: Workload, more: Mapping[str, float]) -> str:
    """Return what a workload's samples have besides their time, and what the daemon took."""
    told = [note] if (note := workload.note(more)) else []
    if "processor_s" in more:
        told.append(f"processor {more['processor_s']:.1f} s")
        told.append(f"at its peak {more['VmHWM'] / MIB:.0f} MiB")
        if more["helpers"]:
            told.append(f"its processes {more['helpers'] / MIB:.0f} MiB")
    return ", ".join(told)


def write_json(
    path: Path,
    *,
    findings: Findings,
    settings: Mapping[str, object],
    met: list[dict[str, str]],
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

"""README's table: how many times as fast wbfs is as each of its peers, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.contenders import (
    ARIA2C,
    ARIA2C_CHECKED,
    CURL,
    RCLONE_DEFAULTS,
    RCLONE_TUNED,
    SDK,
    WBFS,
)
from benchmark.findings import Findings

PEERS = (RCLONE_DEFAULTS, RCLONE_TUNED, SDK, CURL, ARIA2C, ARIA2C_CHECKED)
ROWS = (
    ("large file read, cold", "sequential", "cold"),
    ("the same over the link", "sequential-wan", "cold"),
    ("small files over the link, four shuffled readers", "shuffled-wan", "cold"),
    ("the same, one reader in order", "in-order-wan", "cold"),
    ("loader with one worker, first batch of 64", "first-batch-wan", "first batch"),
    ("loader with four, first epoch", "epochs-wan", "epoch 1"),
    ("the same, second epoch", "epochs-wan", "epoch 2"),
    ("`wbfs get` of the large file", "get", "large"),
    ("the same over the link", "get-wan", "large"),
    ("`wbfs get` of small files", "get", "small"),
    ("the same over the link", "get-wan", "small"),
    ("`ls -lR`, second time", "walk", "ls -lR, again"),
    ("`find`, second time", "walk", "find, again"),
)
"""What a row is called, its workload and its case."""


def numbers(findings: Findings, names: Iterable[str]) -> str:
    """Return the table of the workloads that were run, empty where it has no rows."""
    told = [
        (what, seconds, [_times(findings, workload, case, peer, seconds) for peer in PEERS])
        for what, workload, case in ROWS
        if workload in names and (seconds := findings.median(workload, case, WBFS)) is not None
    ]
    if not told:
        return ""
    lines = [f"| | wbfs | {' | '.join(PEERS)} |", f"| --- {'| --- ' * (len(PEERS) + 1)}|"]
    lines += [f"| {what} | {seconds:.2f} s | {' | '.join(row)} |" for what, seconds, row in told]
    return "\n".join(lines)


def _times(findings: Findings, workload: str, case: str, peer: str, seconds: float) -> str:
    """Return how many times as fast wbfs is, empty where the peer doesn't do that."""
    theirs = findings.median(workload, case, peer)
    return f"{theirs / seconds:.2g}" if theirs is not None else ""

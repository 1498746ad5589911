"""What was fetched and served since the start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Sizes in bytes; `fetched_bytes` grows as they come, files count once they are whole."""

    fetched_bytes: int = 0
    fetched_files: int = 0
    failed_fetches: int = 0
    served_bytes: int = 0

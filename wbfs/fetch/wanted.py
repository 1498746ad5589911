"""Whose bytes are fetched."""

from __future__ import annotations

from dataclasses import dataclass

from wbfs.model.entries import Entry, Version


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose bytes are asked for: of files with the same content, the one that was opened."""

    version: Version
    entry: Entry

    @property
    def path(self) -> str:
        """The file's path as the SDK writes it."""
        return f"{self.version.path}/{self.entry.path}"

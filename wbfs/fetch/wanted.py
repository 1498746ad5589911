"""Whose bytes are fetched."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wbfs.model.entries import Entry, Version


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose bytes are asked for: of files with the same content, the one that was opened."""

    version: Version
    entry: Entry

    @property
    def of_any_size(self) -> Wanted:
        """The same, of whatever size it is."""
        return self.of_size(None)

    def of_size(self, size: int | None) -> Wanted:
        """Return the same, of that size."""
        return Wanted(self.version, replace(self.entry, size=size, size_is_hint=False))

    @property
    def path(self) -> str:
        """The file's path as the SDK writes it."""
        return f"{self.version.path}/{self.entry.path}"

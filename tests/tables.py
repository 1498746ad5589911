"""Tables of manifests for tests that begin with entries rather than with a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wbfs.model.digests import Algorithm, Digest
from wbfs.model.entries import Entry, Row
from wbfs.store.manifest_writer import write_table
from wbfs.store.manifests import Manifests, ManifestTable

VERSION_PATH = "e/p/c:v0"


def add_table(
    manifests: Manifests,
    artifact_id: str,
    entries: Iterable[Entry],
    unreadable: Sequence[tuple[str, str]] = (),
) -> ManifestTable:
    """Write the table of an artifact of these entries, and open it."""
    rows = {entry.path: row_of(entry) for entry in entries}
    with manifests.drafting(artifact_id) as draft:
        write_table(draft, VERSION_PATH, sorted(rows), rows.__getitem__, unreadable)
    table = manifests.open(artifact_id)
    assert table is not None
    return table


def row_of(entry: Entry) -> Row:
    """Return what the manifest says of an entry."""
    digest = entry.digest
    return Row(
        entry.size,
        digest.algorithm if digest else Algorithm.MD5,
        bytes.fromhex(digest.hex) if digest else None,
        entry.birth_artifact_id,
        entry.reference,
    )


def entry_of(path: str, row: Row) -> Entry:
    """Return the entry that a row of a manifest is."""
    return Entry(
        path=path,
        size=row.size,
        digest=None if row.digest is None else Digest(row.algorithm, row.digest.hex()),
        reference=row.reference,
        birth_artifact_id=row.birth_artifact_id,
    )

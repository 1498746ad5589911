"""Tables of manifests for tests that begin with entries rather than with a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from wbfs.model.digests import Algorithm, Digest, digest_bytes
from wbfs.model.entries import Entry, LeftOut, Row, Version
from wbfs.store.known.manifest_table import Folder, ManifestTable
from wbfs.store.known.manifest_writer import write_table
from wbfs.store.known.manifests import Manifests

VERSION = Version(
    id="QQ==", entity="e", project="p", collection="c", name="v0", type="dataset", digest=""
)
VERSION_PATH = VERSION.path


def digest_of(text: str, algorithm: Algorithm = Algorithm.MD5) -> Digest:
    """Return the digest that a manifest writes so."""
    return Digest(algorithm, digest_bytes(text).hex())


DIGEST = digest_of("1B2M2Y8AsgTpgAmY7PhCfg==")


def add_table(
    manifests: Manifests,
    artifact_id: str,
    entries: Iterable[Entry],
    unreadable: Sequence[tuple[str, str]] = (),
) -> ManifestTable:
    """Write the table of an artifact of these entries, and open it."""
    rows = {entry.path: row_of(entry) for entry in entries}
    left_out = LeftOut(len(unreadable), unreadable)
    artifact = manifests.name(artifact_id)
    with manifests.drafting(artifact_id) as draft:
        write_table(draft, VERSION_PATH, artifact, sorted(rows), rows.__getitem__, left_out)
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
        entry.size_is_hint,
    )


def entry_of(path: str, row: Row) -> Entry:
    """Return the entry that a row of a manifest is."""
    return Entry(
        path=path,
        size=row.size,
        digest=None if row.digest is None else Digest(row.algorithm, row.digest.hex()),
        reference=row.reference,
        birth_artifact_id=row.birth_artifact_id,
        size_is_hint=row.size_is_hint,
    )


def folders_of(table: ManifestTable, folder: Folder, skip: int = 0) -> Iterator[Folder]:
    """Yield a folder's subfolders in the order of their numbers, without the first `skip`."""
    for number in range(folder.first_folder + skip, folder.first_folder + folder.folder_count):
        child = table.folder(number)
        assert child is not None
        yield child

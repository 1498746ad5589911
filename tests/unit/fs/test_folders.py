"""The rows of folders: every name once from wherever it is read on, within their memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from fetching import new_manifests
from tables import DIGEST, VERSION, add_table

from wbfs.fs.folders import CHUNK, FolderRows, OpenFolder, Row, Shows, chunk_end
from wbfs.fs.inodes import tree_key
from wbfs.fs.nodes import VersionDirectory, file_key
from wbfs.fs.prefix import PathPrefix
from wbfs.model.entries import Entry
from wbfs.store.known.manifest_table import ROOT_FOLDER, ManifestTable

FOLDERS, FILES = CHUNK + 7, 2 * CHUNK + 11
NAMES = [f"folder{number:05}" for number in range(FOLDERS)]
NAMES += [f"ä file {number:05}" for number in range(FILES)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestTable]:
    """Return the table of a version whose root has more than a chunk of each kind."""
    paths = [f"{name}/file" if name.startswith("folder") else name for name in NAMES]
    entries = tuple(Entry(path=path, size=len(path), digest=DIGEST) for path in paths)
    cache_dir: Path = tmp_path_factory.mktemp("cache")
    table = add_table(new_manifests(cache_dir, "api.example"), VERSION.id, entries)
    yield table
    table.close()


def opened(table: ManifestTable, alias: str = "v0") -> OpenFolder:
    folder = table.folder(ROOT_FOLDER)
    assert folder is not None
    return OpenFolder(
        node=VersionDirectory(VERSION, alias),
        version=VERSION,
        folder=folder,
        folder_key=tree_key("folder", alias),
        file_key=file_key(VERSION),
        valid_until=0,
    )


def read_on(
    rows: FolderRows,
    table: ManifestTable,
    folder: OpenFolder,
    skip: int,
    shows: Shows | None = None,
) -> list[Row]:
    found: list[Row] = []
    while skip < folder.count:
        found += rows.after(folder, skip, table, shows)
        skip = chunk_end(skip)
    return found


@pytest.mark.parametrize("max_bytes", [0, 1 << 30])
def test_every_name_once_wherever_it_is_read_on(table: ManifestTable, max_bytes: int) -> None:
    rows, folder = FolderRows(max_bytes), opened(table)
    everything = read_on(rows, table, folder, 0)
    assert [name.decode() for _, name, _, _ in everything] == NAMES
    assert [position for position, *_ in everything] == list(range(1, len(NAMES) + 1))
    for skip in (1, CHUNK - 1, CHUNK, CHUNK + 1, FOLDERS - 1, FOLDERS, FOLDERS + 1, len(NAMES)):
        assert read_on(rows, table, folder, skip) == everything[skip:]


def test_a_row_is_what_the_file_is(table: ManifestTable) -> None:
    first, *_, last = read_on(FolderRows(), table, opened(table), 0)
    found = table.file_by_name(ROOT_FOLDER, NAMES[-1])
    assert found is not None
    assert last[2:] == (file_key(VERSION) << 24 | found.id, len(NAMES[-1]))
    assert first[2:] == (tree_key("folder", "v0") << 24 | 1, None)


def test_what_is_not_shown_leaves_the_positions_of_the_rest(table: ManifestTable) -> None:
    rows, folder = FolderRows(), opened(table)

    def shows(name: str, is_folder: bool) -> bool:
        return name.endswith("7") and not is_folder

    everything = read_on(rows, table, folder, 0, shows)
    assert [name.decode() for _, name, _, _ in everything] == [
        name for name in NAMES if shows(name, name.startswith("folder"))
    ]
    for row in everything:
        assert NAMES[row[0] - 1] == row[1].decode()
        assert read_on(rows, table, folder, row[0] - 1, shows)[0] == row


def test_rows_are_kept_within_their_bound(table: ManifestTable) -> None:
    max_bytes = 1 << 20
    rows = FolderRows(max_bytes)
    tracemalloc.start()
    try:
        for number in range(40):
            read_on(rows, table, opened(table, f"alias{number}"), 0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max_bytes / 2 < taken < max_bytes * 1.5


@pytest.mark.parametrize(
    ("prefix", "matches"),
    [("folder00", True), ("folder00000/f", True), ("folder00000/", True), ("ä file 00", True)]
    + [("folder9", False), ("folder00000/x", False), ("nothing/", False), ("ä file 9", False)],
)
def test_whether_a_prefix_lets_anything_through(
    table: ManifestTable, prefix: str, matches: bool
) -> None:
    assert PathPrefix(prefix).matches(table) is matches

"""The table of a manifest against a plain model of it, and what is left out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbfs.model.digests import Digest
from wbfs.model.entries import Entry, Manifest, Reference, Version
from wbfs.store.manifests import ROOT_FOLDER, Folder, Manifests, ManifestTable

DIGEST = Digest.from_base64("1B2M2Y8AsgTpgAmY7PhCfg==")


def entry(path: str, size: int = 1) -> Entry:
    return Entry(path=path, size=size, digest=DIGEST, birth_artifact_id="QQ==")


def version(artifact_id: str) -> Version:
    return Version(
        id=artifact_id,
        entity="e",
        project="p",
        collection="c",
        name="v0",
        type="dataset",
        digest="",
    )


def walk(table: ManifestTable, number: int = ROOT_FOLDER) -> dict[str, int | None]:
    """Read the whole table through its listings, checking each number and name on the way."""
    folder = table.folder(number)
    assert folder is not None
    found: dict[str, int | None] = {}
    for file in table.files(folder):
        assert table.file(file.id) == file
        assert table.file_by_name(number, file.name) == file
        found[file.entry.path] = file.entry.size
    for child in table.folders(folder):
        assert child.parent == number
        assert table.folder_by_name(number, child.name) == child
        found.update(walk(table, child.id))
    return found


paths = st.lists(
    st.sampled_from(["a", "b", "ab", "ä", "..", "", ".", "x" * 256, "n\0l"]), min_size=1, max_size=4
).map("/".join)


@settings(deadline=None)
@given(st.dictionaries(paths, st.integers(min_value=0, max_value=9), max_size=20))
def test_table_is_what_is_safe(
    tmp_path_factory: pytest.TempPathFactory, model: dict[str, int]
) -> None:
    manifests = Manifests(tmp_path_factory.mktemp("cache"), "api.example")
    table = manifests.add(
        version("id"), Manifest(entries=tuple(entry(*item) for item in model.items()))
    )
    bad = {"", ".", "..", "x" * 256, "n\0l"}
    safe = {path: size for path, size in model.items() if not bad & set(path.split("/"))}
    expected = {
        path: size
        for path, size in safe.items()
        if not any(other.startswith(path + "/") for other in safe)
    }
    assert walk(table) == expected
    assert table.left_out.count == len(model) - len(expected)
    assert {path for path, _ in table.left_out.report} <= set(model)
    table.close()


@settings(deadline=None, max_examples=30)
@given(st.sets(st.text("ab/", min_size=1, max_size=6), max_size=12), st.randoms())
def test_numbers_depend_on_the_names_only(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], random: object
) -> None:
    manifests = Manifests(tmp_path_factory.mktemp("cache"), "api.example")
    ordered = sorted(names)
    numbers = []
    for key, order in (("one", ordered), ("two", ordered[::-1])):
        table = manifests.add(version(key), Manifest(entries=tuple(map(entry, order))))
        folders = [table.folder(ROOT_FOLDER)]
        files = {}
        for folder in folders:
            assert isinstance(folder, Folder)
            files.update({file.entry.path: file.id for file in table.files(folder)})
            folders.extend(table.folders(folder))
        numbers.append((files, [folder.id for folder in folders if folder]))
        table.close()
    assert numbers[0] == numbers[1]


def test_listing_goes_on_at_a_position(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path, "api.example")
    entries = [entry(f"{name}/f") for name in "abc"] + [entry(name) for name in "xyz"]
    table = manifests.add(version("id"), Manifest(entries=tuple(entries)))
    root = table.folder(ROOT_FOLDER)
    assert root is not None
    assert [folder.name for folder in table.folders(root, 1)] == ["b", "c"]
    assert [file.name for file in table.files(root, 2)] == ["z"]
    assert table.folder_path(table.folder_by_name(0, "b").id) == ("b",)  # type: ignore[union-attr]
    table.close()


def test_rows_keep_what_an_entry_says(tmp_path: Path) -> None:
    reference = Reference(uri="http://h/x", token="tag", etag='"tag"', version_id="7")
    entries = (
        Entry(path="d/f", size=5, digest=DIGEST, birth_artifact_id="QQ=="),
        Entry(path="d/r", size=None, digest=None, reference=reference),
    )
    manifests = Manifests(tmp_path, "api.example")
    manifests.add(version("id/with slash"), Manifest(entries=entries)).close()
    table = manifests.open("id/with slash")
    assert table is not None
    assert (table.entry("d/f"), table.entry("d/r")) == entries
    assert table.entry("d") is None
    assert table.entry("e/f") is None
    table.close()


def test_unreadable_rows_are_reported(tmp_path: Path) -> None:
    manifest = Manifest(entries=(entry("ok"),), unreadable=(("odd\ud800", "it is no object"),))
    table = Manifests(tmp_path, "api.example").add(version("id"), manifest)
    assert table.left_out.count == 1
    assert table.left_out.report == (("odd\\ud800", "it is no object"),)
    table.close()


def test_servers_are_apart_and_a_damaged_table_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Manifests(tmp_path, "one.example").add(version("id"), Manifest(entries=(entry("f"),))).close()
    assert Manifests(tmp_path, "two.example:8080").open("id") is None
    [path] = tmp_path.glob("manifests/one.example/*.sqlite")
    path.write_bytes(b"not a database" * 100)
    manifests = Manifests(tmp_path, "one.example")
    assert manifests.open("id") is None
    assert "can't read the cached manifest" in caplog.text
    manifests.add(version("id"), Manifest(entries=(entry("f"),))).close()
    table = manifests.open("id")
    assert table is not None
    assert (table.version_path, walk(table)) == ("e/p/c:v0", {"f": 1})
    table.close()

"""The table of a manifest against a plain model of it, and what is left out of it."""

from __future__ import annotations

import os
import resource
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest
from fetching import new_manifests
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import DIGEST, add_table, folders_of, row_of

from wbfs.model.entries import Entry, LeftOut, Reference
from wbfs.model.errors import NoDescriptor, StoreError
from wbfs.store.known.manifest_table import ROOT_FOLDER, Folder, ManifestTable, size_in_row
from wbfs.store.known.manifest_writer import fill_in_sizes, write_table


def entry(path: str, size: int = 1) -> Entry:
    return Entry(path=path, size=size, digest=DIGEST, birth_artifact_id="QQ==")


def walk(table: ManifestTable, number: int = ROOT_FOLDER) -> dict[str, int | None]:
    """Read the whole table through its listings, checking each number and name on the way."""
    folder = table.folder(number)
    assert folder is not None
    found: dict[str, int | None] = {}
    for file in table.files(folder):
        assert table.file(file.id) == file
        assert table.file_by_name(number, file.name) == file
        size = size_in_row(file.entry.size, is_hint=file.entry.size_is_hint)
        assert table.find(number, file.name) == (file.id, size, False)
        found[file.entry.path] = file.entry.size
    for child in folders_of(table, folder):
        assert child.parent == number
        assert table.folder_by_name(number, child.name) == child
        assert table.find(number, child.name) == (child.id, 0, True)
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
    manifests = new_manifests(tmp_path_factory.mktemp("cache"), "api.example")
    table = add_table(manifests, "id", (entry(*item) for item in model.items()))
    bad = {"", ".", "..", "x" * 256, "n\0l"}
    safe = {path: size for path, size in model.items() if not bad & set(path.split("/"))}
    expected = {
        path: size
        for path, size in safe.items()
        if not any(other.startswith(path + "/") for other in safe)
    }
    assert walk(table) == expected
    assert table.left_out.count == len(model) - len(expected)
    # Long ones are cut.
    for path, _ in table.left_out.report:
        assert any(other.startswith(path.removesuffix("...")) for other in model)
    table.close()


@settings(deadline=None, max_examples=30)
@given(st.sets(st.text("ab/", min_size=1, max_size=6), max_size=12), st.randoms())
def test_numbers_depend_on_the_names_only(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], random: object
) -> None:
    manifests = new_manifests(tmp_path_factory.mktemp("cache"), "api.example")
    ordered = sorted(names)
    numbers = []
    for key, order in (("one", ordered), ("two", ordered[::-1])):
        table = add_table(manifests, key, map(entry, order))
        folders = [table.folder(ROOT_FOLDER)]
        files = {}
        for folder in folders:
            assert isinstance(folder, Folder)
            files.update({file.entry.path: file.id for file in table.files(folder)})
            folders.extend(folders_of(table, folder))
        numbers.append((files, [folder.id for folder in folders if folder]))
        table.close()
    assert numbers[0] == numbers[1]


def test_listing_goes_on_at_a_position(tmp_path: Path) -> None:
    manifests = new_manifests(tmp_path, "api.example")
    entries = [entry(f"{name}/f") for name in "abc"] + [entry(name) for name in "xyz"]
    table = add_table(manifests, "id", entries)
    root = table.folder(ROOT_FOLDER)
    assert root is not None
    assert [folder.name for folder in folders_of(table, root, 1)] == ["b", "c"]
    assert [file.name for file in table.files(root, 2)] == ["z"]
    assert table.folder_path(table.folder_by_name(0, "b").id) == ("b",)  # type: ignore[union-attr]
    table.close()


def test_rows_keep_what_an_entry_says(tmp_path: Path) -> None:
    reference = Reference(uri="http://h/x", token="tag", etag='"tag"', version_id="7")
    entries = (
        Entry(path="d/f", size=5, digest=DIGEST, birth_artifact_id="QQ=="),
        Entry(path="d/r", size=None, digest=None, reference=reference),
    )
    manifests = new_manifests(tmp_path, "api.example")
    add_table(manifests, "id/with slash", entries).close()
    table = manifests.open("id/with slash")
    assert table is not None
    assert (table.entry("d/f"), table.entry("d/r")) == entries
    assert table.entry("d") is None
    assert table.entry("e/f") is None
    table.close()


def test_unreadable_rows_are_reported(tmp_path: Path) -> None:
    unreadable = [("odd", "it is no object")]
    table = add_table(new_manifests(tmp_path, "api.example"), "id", [entry("ok")], unreadable)
    assert table.left_out.count == 1
    assert table.left_out.report == [("odd", "it is no object")]
    table.close()


def test_servers_are_apart_and_a_damaged_table_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_table(new_manifests(tmp_path, "one.example"), "id", [entry("f")]).close()
    assert new_manifests(tmp_path, "two.example:8080").open("id") is None
    [path] = tmp_path.glob("manifests/one.example/*.sqlite")
    path.write_bytes(b"not a database" * 100)
    manifests = new_manifests(tmp_path, "one.example")
    assert manifests.open("id") is None
    assert "can't read the cached manifest" in caplog.text
    add_table(manifests, "id", [entry("f")]).close()
    table = manifests.open("id")
    assert table is not None
    assert (table.version_path, walk(table)) == ("e/p/c:v0", {"f": 1})
    table.close()


@settings(deadline=None)
@given(st.data())
def test_damage_of_any_kind_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    manifests = new_manifests(tmp_path_factory.mktemp("cache"), "api.example")
    entries = [entry(f"folder {number % 7}/{number}", number) for number in range(300)]
    with closing(add_table(manifests, "id", entries)) as table:
        path = table.path
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    damage = {
        "a bit": bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :],
        "a page": bytes(4096) + good[at + 4096 :],
        "cut": b"",
        "longer": good[at:] + b"x",
    }
    bad = good[:at] + damage[data.draw(st.sampled_from(sorted(damage)))]
    path.write_bytes(bad)
    found = manifests.open("id")
    assert (found is not None) == (bad == good)
    if found is not None:
        found.close()


def test_what_fails_after_it_was_opened_is_no_defect(tmp_path: Path) -> None:
    entries = [entry(f"{number:0200}") for number in range(9000)]
    with closing(add_table(new_manifests(tmp_path, "api.example"), "id", entries)) as table:
        size = table.path.stat().st_size
        with open(table.path, "r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        with pytest.raises(StoreError, match="can't read the cached manifest"):
            list(table.entries())
        assert table.has_failed


@pytest.mark.parametrize(("free", "is_enough"), [(0, False), (1, False), (2, True)])
def test_that_no_descriptor_is_left_is_said_so(tmp_path: Path, free: int, is_enough: bool) -> None:
    manifests = new_manifests(tmp_path, "api.example")
    add_table(manifests, "id", [entry("f")]).close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 256), limits[1]))
        with suppress(OSError):
            while True:
                taken.append(os.open("/", os.O_PATH))
        for _ in range(free):
            os.close(taken.pop())
        with nullcontext() if is_enough else pytest.raises(NoDescriptor):
            table = manifests.open("id")
            assert table is not None
            table.close()
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_links_get_the_sizes_of_other_artifacts_files(tmp_path: Path) -> None:
    def link(path: str, uri: str) -> Entry:
        reference = Reference(uri=f"wandb-artifact://{uri}", token="t")
        return Entry(path=path, size=None, digest=DIGEST, reference=reference)

    manifests = new_manifests(tmp_path, "api.example")
    unknown = Reference(uri="http://h/x", token="http://h/x")
    one = [entry("a/b/c", 5), Entry(path="u", size=None, digest=None, reference=unknown)]
    targets = {
        "41": add_table(manifests, "one", one),
        "42": add_table(manifests, "two", [entry("f", 7)]),
    }
    links = [
        link("d/deep", "41/a/b/c"),
        link("d/folder", "41/a/b"),
        link("d/missing", "41/a/x/c"),
        link("gone", "43/f"),
        link("other", "42/f"),
        link("unknown", "41/u"),
    ]
    rows = {one.path: row_of(one) for one in [*links, entry("plain", 3)]}
    with manifests.drafting("id") as draft:
        write_table(draft, "e/p/c:v0", "x", sorted(rows), rows.__getitem__, LeftOut())
        with closing(ManifestTable(draft)) as table:
            assert sorted(table.pending(9)) == ["41", "42", "43"]
        fill_in_sizes(draft, {key: table.path for key, table in targets.items()})
    table = manifests.open("id")
    assert table is not None
    assert table.pending(9) == ["43"]
    assert walk(table) == {
        "d/deep": 5,
        "d/folder": None,
        "d/missing": None,
        "gone": None,
        "other": 7,
        "unknown": None,
        "plain": 3,
    }
    for one in (table, *targets.values()):
        one.close()


def test_nothing_is_left_of_a_draft_that_failed(tmp_path: Path) -> None:
    manifests = new_manifests(tmp_path, "api.example")

    def files() -> list[str]:
        return sorted(path.name for path in (tmp_path / "manifests/api.example").iterdir())

    with pytest.raises(ZeroDivisionError), manifests.drafting("id") as draft:
        raise ZeroDivisionError
    assert files() == []
    # Of a daemon that was killed a while ago; of another file; and of one that begins just now.
    leftover, other, begun = (
        draft.with_name(name)
        for name in (draft.name, "other.sqlite.1.tmp", f"{draft.name[:-4]}2.tmp")
    )
    for path in (leftover, other, begun):
        path.touch()
    for path in (leftover, other):
        os.utime(path, ns=(1, 1))
    with manifests.drafting("id") as first:
        assert files() == sorted([first.name, other.name, begun.name])
        os.utime(first, ns=(1, 1))
        with manifests.drafting("id") as second:
            assert files() == sorted([first.name, second.name, other.name, begun.name])


def test_what_is_looked_up_is_found_by_an_index(tmp_path: Path) -> None:
    reference = Reference(uri="http://h/x", token="t")
    entries = [entry(f"d/e/{number}") for number in range(9)]
    entries.append(Entry(path="d/r", size=1, digest=None, reference=reference))
    table = add_table(new_manifests(tmp_path, "api.example"), "id", entries)
    asked: list[str] = []
    table._db.set_trace_callback(asked.append)
    folder = table.folder_by_name(ROOT_FOLDER, "d")
    assert folder is not None
    assert table.file_by_name(folder.id, "r") is not None
    assert table.find(folder.id, "e") is not None
    assert table.file(3) is not None
    assert table.entry("d/e/5") is not None
    assert table.paths_behind("d/e/5", 2) == ["d/e/6", "d/e/7"]
    assert table.has_name(folder.id, "r")
    assert list(table.files(folder))
    assert list(table.file_sizes(folder))
    assert list(folders_of(table, folder))
    assert list(table.folder_names(folder))
    table._db.set_trace_callback(None)
    assert len(set(asked)) > 9
    for question in asked:
        steps = [row[3] for row in table._db.execute(f"EXPLAIN QUERY PLAN {question}")]
        assert any(step.startswith("SEARCH") for step in steps)
        assert not any(step.startswith("SCAN") or "B-TREE" in step for step in steps), question
    table.close()

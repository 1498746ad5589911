"""Inode numbers: there and back, the same in every process, apart for what is apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wbfs.fs.inodes import CONTROL_FOLDER, ROW_BITS, inode_of, split_inode, tree_key
from wbfs.fs.nodes import VersionDirectory, VersionFile, inode_of_node
from wbfs.model.entries import Entry, Version
from wbfs.store.known.manifest_table import File


def version(**changes: str) -> Version:
    values = {
        "id": "QQ==",
        "entity": "e",
        "project": "p",
        "collection": "c",
        "name": "v0",
        "type": "dataset",
        "digest": "0" * 32,
    }
    return Version(**(values | changes))  # type: ignore[arg-type]


@given(st.text(), st.text(), st.integers(min_value=0, max_value=(1 << ROW_BITS) - 1))
def test_there_and_back(one: str, two: str, row: int) -> None:
    key = tree_key(one, two)
    inode = inode_of(key, row)
    assert split_inode(inode) == (key, row)
    assert CONTROL_FOLDER + 100 < inode < 1 << 63


def test_numbers_do_not_change_with_the_process() -> None:
    assert inode_of(tree_key("entity", "me"), 0) == 5716048001139474432


def test_a_moved_alias_is_another_directory_and_its_file_the_same_where_it_is() -> None:
    one, two = version(), version(id="Qg==", name="v1")
    assert inode_of_node(VersionDirectory(one, "latest")) != inode_of_node(
        VersionDirectory(two, "latest")
    )
    assert inode_of_node(VersionDirectory(one, "latest")) != inode_of_node(
        VersionDirectory(one, "v0")
    )
    file = File(id=3, folder=0, name="f", entry=Entry(path="f", size=1, digest=None))
    linked = version(project="other", collection="portfolio", name="v5")
    assert inode_of_node(VersionFile(one, file)) == inode_of_node(VersionFile(linked, file))
    assert inode_of_node(VersionFile(one, file)) != inode_of_node(VersionFile(two, file))

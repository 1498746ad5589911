"""Manifests as nobody should write them, and what must hold whatever a manifest is.

From a manifest's bytes to what a program sees of its files, by the code that a mount uses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tables import VERSION

from wbfs.fs.folders import FolderRows, OpenFolder
from wbfs.fs.inodes import split_inode
from wbfs.fs.nodes import VersionDirectory, VersionFile, attributes_of, file_key, xattrs_of
from wbfs.model.entries import MAX_REPORTED, SHOWN_CHARACTERS
from wbfs.model.errors import RemoteProtocolError
from wbfs.model.names import is_safe_component
from wbfs.remote.api.manifests import MAX_SIZE, Manifest
from wbfs.store.known.manifest_table import ROOT_FOLDER, File, Folder, ManifestTable
from wbfs.store.known.manifest_writer import write_table

MD5 = b'"1B2M2Y8AsgTpgAmY7PhCfg=="'
GOOD_ROW = b'{"digest":%s,"size":3,"birthArtifactID":"QQ=="}' % MD5
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
LONG_ERROR = 1000
"""Characters that no error needs: a manifest's own text is not to be in it in full."""

STRANGE_VALUES = (
    b"null",
    b"true",
    b"0",
    b"-1",
    b"-0",
    b"3.0",
    b"1e2",
    b"1e400",
    b"-1e-400",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1" + b"0" * 5000,
    b"01",
    b"0x10",
    b"''",
    b'""',
    b'"text"',
    MD5,
    b'"1B2M2Y8AsgTpgAmY7PhCfg"',
    b'"not base64!"',
    b'"AAAA"',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\\q"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b'"line\nbreak"',
    b'"http://h/x"',
    b'"http://[::1"',
    b'"s3://"',
    b'"file:///etc/passwd"',
    b'"file://\\u0000"',
    b'"://"',
    b'"wandb-artifact://41727469666163743a34/a"',
    b'"wandb-artifact:///"',
    b'"wandb-artifact://zz"',
    b'"wandb-artifact://%s/\\u0000"' % (b"4" * 300),
    b'"' + b"x" * 100_000 + b'"',
    b"[]",
    b"[null]",
    b"{}",
    b'{"alg":"XXH128"}',
    b'{"alg":{}}',
    b'{"etag":[1],"versionID":true}',
    b'{"versionID":%s}' % (b"7" * 5000),
    b'{"etag":"\\r\\nX: y"}',
    b'{"a":1,"a":2}',
    b"[" * 100_000 + b"]" * 100_000,
    DEEP,
    b'{"a":NaN}',
    b'{"a":}',
    b"[1,,2]",
    b"{1:2}",
)
"""Values of JSON and what only looks like it; brackets and quotes are closed in all of them."""

STRANGE_NAMES = (
    b'""',
    b'"/"',
    b'"a"',
    b'"a/b"',
    b'"\\u0061"',
    b'"a/b/c"',
    b'"../x"',
    b'"a/../b"',
    b'"a//b"',
    b'"./a"',
    b'"a/."',
    b'"/etc/passwd"',
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\\ud83d\\ude00/\\u00e4"',
    b'"\xff"',
    b'"\\q"',
    b'"new\\nline"',
    b'"' + b"x" * 255 + b'"',
    b'"' + b"x" * 256 + b'"',
    b'"' + "ä".encode() * 128 + b'"',
    b'"' + b"d/" * 128 + b'f"',
    b'"' + b"d/" * 129 + b'f"',
    b'"' + b"d/" * 100_000 + b'f"',
    b'"' + (b"y" * 250 + b"/") * 17 + b'f"',
)

Members = Sequence[tuple[bytes, bytes]]


def json_object(members: Members) -> bytes:
    """Return what would be an object, were its members JSON."""
    return b"{%s}" % b",".join(b"%s:%s" % member for member in members)


def document(rows: Members, head: Members = ((b'"version"', b"1"),)) -> bytes:
    """Return a manifest of such rows."""
    return json_object([*head, (b'"contents"', json_object(rows))])


def tree_of(data: bytes, path: Path) -> list[str] | None:
    """Make a manifest into a table at `path`, and look at all there is in it.

    Return its files' paths; None where it is no manifest, which is said by an error that names the
    version. Raises AssertionError where something is not as it must be.
    """
    path.unlink(missing_ok=True)
    path.touch()
    try:
        manifest = Manifest(data, digest="", digest_algorithm="", what=VERSION.path)
        write_table(
            path, VERSION.path, "server/id", manifest.paths, manifest.row, manifest.left_out
        )
    except RemoteProtocolError as error:
        _look_at_error(str(error))
        return None
    table = ManifestTable(path)
    try:
        return _look_at(table, len(manifest.paths))
    finally:
        table.close()


def _look_at_error(text: str) -> None:
    assert VERSION.path in text
    assert len(text) < LONG_ERROR
    text.encode()


def _look_at(table: ManifestTable, rows: int) -> list[str]:
    left_out = table.left_out
    assert len(left_out.report) == min(left_out.count, MAX_REPORTED)
    assert all(len(text) < 5 * SHOWN_CHARACTERS for one in left_out.report for text in one)
    json.dumps([left_out.count, left_out.report], ensure_ascii=False).encode()
    top = VersionDirectory(VERSION, "v0")
    paths: list[str] = []
    numbers: list[int] = []
    folders = [ROOT_FOLDER]
    for number in folders:
        folder = table.folder(number)
        assert folder is not None
        folders += range(folder.first_folder, folder.first_folder + folder.folder_count)
        for file in table.files(folder):
            _look_at_file(table, folder, file)
            paths.append(file.entry.path)
            numbers.append(file.id)
        _look_at_listing(table, top, folder)
    assert folders == list(range(len(folders)))
    assert numbers == list(range(len(numbers)))
    assert sum(1 for _ in table.entries()) == len(paths)
    # Each row is shown or counted.
    assert len(paths) <= rows <= len(paths) + left_out.count
    return paths


def _look_at_file(table: ManifestTable, folder: Folder, file: File) -> None:
    assert table.file(file.id) == file
    assert table.file_by_name(folder.id, file.name) == file
    assert table.entry(file.entry.path) == file.entry
    assert all(map(is_safe_component, file.entry.path.split("/")))
    assert file.entry.size is None or 0 <= file.entry.size <= MAX_SIZE
    assert len(file.entry.blob.key) < 100
    node = VersionFile(VERSION, file)
    attributes = attributes_of(node)
    assert split_inode(attributes.inode) == (file_key(VERSION), file.id)
    for value in xattrs_of(node).values():
        value.encode()


def _look_at_listing(table: ManifestTable, top: VersionDirectory, folder: Folder) -> None:
    opened = OpenFolder(
        node=top,
        version=VERSION,
        folder=folder,
        folder_key=top.key,
        file_key=file_key(VERSION),
        valid_until=0.0,
    )
    rows, listed = FolderRows(), 0
    while listed < opened.count:
        chunk = rows.after(opened, listed, table, None)
        assert chunk
        for _, name, inode, size in chunk:
            assert is_safe_component(os.fsdecode(name))
            assert 0 < inode < 1 << 63
            assert size is None or ~MAX_SIZE <= size <= MAX_SIZE
        listed += len(chunk)
    assert listed == opened.count
    for (name,) in islice(table.folder_names(folder), 3):
        child = table.folder_by_name(folder.id, name)
        assert child is not None
        assert table.folder_path(child.id)[-1] == name

"""Modes, owners, times, extended attributes, statfs, and that nothing can be written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounter
from corpus import CorpusItem
from mount_table import mounted_at
from mounts import check, run
from prometheus_client.parser import text_string_to_metric_families

from wbfs.cli.given.options import LONGEST_S


def first_file(version: Path) -> Path:
    return next(path for path in sorted(version.rglob("*")) if path.is_file())


@pytest.mark.promises("3.1", "3.2", "3.3", "3.7")
def test_stat_and_the_mount_table(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    version = mount.path / corpus[0].path / corpus[0].version
    created = datetime.fromisoformat(os.getxattr(version, "user.wandb.created_at").decode())
    for path in (version, first_file(version)):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
        assert int(found.st_mtime) == int(created.timestamp())
    assert stat.filemode(version.stat().st_mode) == "dr-xr-xr-x"
    assert stat.filemode(first_file(version).stat().st_mode) == "-r--r--r--"
    [row] = mounted_at(mount.path)
    assert (row.source, row.kind) == ("wbfs", "fuse.wbfs")
    assert "ro" in row.options


@pytest.mark.promises("3.3")
def test_owner_and_umask_can_be_chosen(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    # Who isn't root could not look at somebody else's files.
    uid, gid = (1234, 2345) if os.getuid() == 0 else (os.getuid(), os.getgid())
    mount = mounter(options=["--uid", str(uid), "--gid", str(gid), "--umask", "027"])
    version = mount.path / corpus[0].path / corpus[0].version
    found = first_file(version).stat()
    assert (found.st_uid, found.st_gid, stat.filemode(found.st_mode)) == (uid, gid, "-r--r-----")
    assert stat.filemode(version.stat().st_mode) == "dr-xr-x---"


@pytest.mark.promises("3.4")
def test_inode_numbers_are_the_same_in_every_mount(
    mounter: Mounter, corpus: tuple[CorpusItem, ...]
) -> None:
    # Not what other tests have logged besides.
    projects = sorted({f"{one.entity}/{one.project}" for one in corpus})
    numbers = [
        check("find", *(mount.path / project for project in projects), "-printf", "%P %i\\0")
        for mount in (mounter(), mounter())
    ]
    first, second = (sorted(one.split("\0")) for one in numbers)
    assert first == second
    assert len({line.rpartition(" ")[2] for line in first}) > len(corpus)


@pytest.mark.promises("3.5")
def test_xattrs_say_what_a_path_is(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    one = corpus[0]
    version = mount.path / one.path / one.version

    def value(path: Path, name: str) -> str:
        return os.getxattr(path, f"user.wandb.{name}").decode()

    assert os.listxattr(mount.path) == []
    assert value(mount.path / one.entity, "entity") == one.entity
    assert value(mount.path / one.path, "type") == one.type
    names = ("entity", "project", "artifact", "type", "version")
    expected = [one.entity, one.project, one.collection, one.type, one.version]
    assert [value(version, name) for name in names] == expected
    assert set(value(version, "aliases").split(",")) >= set(one.aliases) - {""}
    assert isinstance(json.loads(value(version, "metadata")), dict)
    for name in ("name", "tags", "digest", "size", "id", "created_at", "description"):
        assert f"user.wandb.{name}" in os.listxattr(version)
    assert value(version, "name") == f"{one.path}:{one.version}"
    file = first_file(version)
    assert int(value(file, "size")) == file.stat().st_size
    assert value(file, "digest")
    # Of a file its own are listed, and all of its version's can be asked for.
    own = ["digest", "size", "birth_artifact", "name"]
    assert os.listxattr(file) == [f"user.wandb.{name}" for name in own]
    for name in ("name", "id", "metadata"):
        assert value(file, name) == value(version, name)


@pytest.mark.promises("3.2")
def test_no_directory_is_of_1970(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    began = time.time() - 1
    mount = mounter()
    one = corpus[0]
    for path in (mount.path, mount.path / one.entity, mount.path / ".wbfs"):
        assert began <= path.stat().st_mtime <= time.time()
    for path in (mount.path / one.path, (mount.path / one.path).parent):
        assert began - 86400 < path.stat().st_mtime < began


def test_references_tell_their_uri(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    uris = set()
    for one in corpus:
        for path in (mount.path / one.path / one.version).rglob("*"):
            if path.is_file():
                with contextlib.suppress(OSError):
                    uri = os.getxattr(path, "user.wandb.uri").decode()
                    uris.add(uri.partition(":")[0])
    assert {"http", "file", "wandb-artifact"} <= uris


def test_other_xattrs(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    path = mount.path / corpus[0].path / corpus[0].version
    for name, expected in (
        ("user.wandb.nonsense", errno.ENODATA),
        ("user.other", errno.ENOTSUP),
        ("security.selinux", errno.ENOTSUP),
        ("system.posix_acl_access", errno.ENOTSUP),
    ):
        with pytest.raises(OSError, match=os.strerror(expected)):
            os.getxattr(path, name)


def test_ls_asks_for_foreign_xattrs_once(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    projects = sorted({mount.path / one.entity / one.project for one in corpus})
    check("ls", "-lR", *projects)
    assert mount.status()["requests"].get("getxattr", 0) <= 10

    def asked_again() -> int:
        before = mount.status()["requests"]
        check("ls", "-lR", *projects)
        after = mount.status()["requests"]
        asked = ("lookup", "getattr", "getxattr")
        return max(after.get(one, 0) - before.get(one, 0) for one in asked)

    # What the kernel knows it does not ask again: below the versions, and above for a while. More
    # than once, since it may be short of memory.
    assert min(asked_again() for _ in range(3)) <= 3


WRITES: dict[str, Callable[[Path, Path], Any]] = {
    "create": lambda _, folder: (folder / "new").write_text("x"),
    "write": lambda file, _: file.open("r+b"),
    "truncate": lambda file, _: os.truncate(file, 0),
    "mkdir": lambda _, folder: (folder / "new").mkdir(),
    "rmdir": lambda _, folder: folder.rmdir(),
    "unlink": lambda file, _: file.unlink(),
    "rename": lambda file, folder: file.rename(folder / "new"),
    "symlink": lambda _, folder: (folder / "new").symlink_to("x"),
    "link": lambda file, folder: os.link(file, folder / "new"),
    "chmod": lambda file, _: file.chmod(0o777),
    "chown": lambda file, _: os.chown(file, 0, 0),
    "utime": lambda file, _: os.utime(file, (0, 0)),
    "setxattr": lambda file, _: os.setxattr(file, "user.wandb.id", b"x"),
    "removexattr": lambda file, _: os.removexattr(file, "user.wandb.id"),
    "mknod": lambda _, folder: os.mkfifo(folder / "new"),
}


@pytest.mark.promises("3.1")
def test_every_write_gets_erofs(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    version = mount.path / corpus[0].path / corpus[0].version
    file = first_file(version)
    for name, write in WRITES.items():
        # A mountpoint can't be removed for another reason.
        for folder in (version, mount.path) if name != "rmdir" else (version,):
            with pytest.raises(OSError, match="Read-only file system") as caught:
                write(file, folder)
            assert caught.value.errno == errno.EROFS, name


@pytest.mark.promises("3.7")
def test_df_works(mounter: Mounter) -> None:
    mount = mounter()
    header, line = check("df", "-k", mount.path).splitlines()
    assert header.startswith("Filesystem")
    assert line.split()[0] == "wbfs"
    assert int(line.split()[1]) > 0
    assert os.statvfs(mount.path).f_namemax == 255


def test_names_that_are_too_long(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    # All of it also where it is waited for as long as it can be.
    mount = mounter(options=["--timeout", str(LONGEST_S), "--alias-ttl", str(LONGEST_S)])
    version = mount.path / corpus[0].path / corpus[0].version
    for folder in (mount.path, *list(version.parents)[:3], version, mount.path / ".wbfs"):
        for length, number in ((255, errno.ENOENT), (256, errno.ENAMETOOLONG)):
            with pytest.raises(OSError, match=os.strerror(number)):
                (folder / ("x" * length)).stat()
    assert mount.errors() == []


def test_control_folder(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    assert ".wbfs" not in os.listdir(mount.path)
    assert sorted(os.listdir(mount.path / ".wbfs")) == [
        "errors.jsonl",
        "fetches.jsonl",
        "metrics",
        "refresh",
        "status.json",
    ]
    assert not (mount.path / "no-such-entity-at-all").exists()
    version = mount.path / corpus[0].path / corpus[0].version
    file = max(
        (path for path in version.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = file.read_bytes()
    status = mount.status()
    assert status["mountpoint"] == str(mount.path)
    assert status["fetched"]["fetched_bytes"] == len(content)
    metrics = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(check("cat", mount.path / ".wbfs/metrics"))
        for sample in family.samples
    }
    assert metrics["wbfs_fetched_bytes_total",] == len(content)
    assert metrics["wbfs_requests_total", "lookup"] > 0
    assert mount.errors() == []
    assert run("ls", "-la", mount.path / ".wbfs").returncode == 0

"""References to web servers of all habits: a mount shows what the SDK downloads of them."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from conftest import Mounter
from large_manifest import log_version_of
from mounts import WBFS, check, wait_until
from stand_in import StandIn
from web_habits import LOGIN, PASSWORD, USER, Web, packed, tag_of, web_server

WORDS = random.Random("words").choices([b"one", b"two", b"three", b"four\n"], k=1 << 20)
SMALL = b" ".join(WORDS[:5000])
# Compressed it is large too.
LARGE = b" ".join(WORDS) + random.Random("large").randbytes(5 << 20)
HABITS = (
    "plain",
    "norange",
    "oddrange",
    "unsaid",
    "no400",
    "no403+nohead",
    "no405",
    "no501+stored",
    "changed",
    "changed+norange+nohead",
    "known",
    "packedonly",
    "nohead",
    "zerohead",
    "wronghead",
    "nohead+norange",
    "nolength",
    "close",
    "noetag",
    "noetag+nolength",
    "apache",
    "nginx",
    "variants",
    "apache+norange",
    "nginx+norange",
    "stored",
    "stored+norange",
    "auth",
    "moved",
    "away",
    "auth+away",
    "moved+nohead+norange",
    "deafhead",
)
LARGE_TOO = (
    "plain",
    "norange",
    "oddrange",
    "unsaid",
    "no400",
    "no403+nohead",
    "no405",
    "no501+stored",
    "changed",
    "known",
    "packedonly",
    "nolength",
    "noetag",
    "nginx+norange",
    "variants",
    "stored",
)
NAMES = (
    *(f"{one}/small.txt" for one in HABITS),
    *(f"{one}/large.txt" for one in LARGE_TOO),
    "plain/empty",
    # Not all files of a folder and a type are alike.
    "variants/bare.txt",
)
LINKED = ("unchecked/plain/small.txt", "unchecked/nolength/small.txt", "checked/apache/small.txt")
"""What another artifact leads to."""
LOG = """
import json, pathlib, sys
import wandb
folder, habits = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
with wandb.init(project="web") as run:
    artifact = wandb.Artifact("habits", type="dataset")
    for name, url in habits.items():
        artifact.add_reference(url, name=f"checked/{name}")
        artifact.add_reference(url, name=f"unchecked/{name}", checksum=False)
    artifact = run.log_artifact(artifact).wait()
    for name in habits:
        artifact.get_entry(f"checked/{name}").download(str(folder))
    linking = wandb.Artifact("linking", type="dataset")
    for name in json.loads(sys.argv[3]):
        linking.add_reference(artifact.get_entry(name).ref_url(), name=name)
    run.log_artifact(linking).wait()
    print(run.entity)
"""


@dataclass(frozen=True)
class Logged:
    """The server, what the SDK logged of it and what it then downloaded."""

    web: Web
    version: Path
    downloaded: Path


@pytest.fixture(scope="module")
def logged(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("web")
    with web_server() as web:
        web.files |= {"small.txt": SMALL, "bare.txt": SMALL, "large.txt": LARGE, "empty": b""}
        # Before somebody waits for it.
        tags = [tag_of(packed(content)) for content in web.files.values()]
        assert len(set(tags)) == 3
        urls = json.dumps({name: web.url_of(*name.split("/")) for name in NAMES})
        downloaded = folder / "downloaded"
        linked = json.dumps(LINKED)
        entity = stand_in.run_sdk(LOG, folder / "home", downloaded, urls, linked)
        yield Logged(web, Path(entity, "web", "habits", "v0"), downloaded)


def expected(logged: Logged, name: str) -> bytes:
    """Return what a file is: what the SDK downloads, but that what is kept compressed stays so."""
    content = (logged.downloaded / "checked" / name).read_bytes()
    assert content in (SMALL, LARGE, b"")
    return packed(content) if "stored" in name else content


@pytest.mark.promises("5.6")
def test_all_is_what_the_sdk_downloads(logged: Logged, mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter()
    for folder in ("checked", "unchecked"):
        for name in NAMES:
            path = mount.path / logged.version / folder / name
            content = expected(logged, name)
            assert path.stat().st_size == len(content), path
            assert path.read_bytes() == content, path
            assert path.stat().st_size == len(content), path
    for name in LINKED:
        path = mount.path / logged.version.parents[1] / "linking/v0" / name
        assert path.stat().st_size == len(SMALL), path
        assert path.read_bytes() == SMALL, path
    # What stands in a URL is for its own server.
    for one in ("plain/small.txt", "plain/large.txt"):
        assert not [
            asked
            for asked in logged.web.requests(*one.split("/"))
            if "authorization" in asked.headers
        ]


def test_a_file_s_size_is_true_whether_it_is_opened_or_not(
    logged: Logged, mounter: Mounter
) -> None:
    folder = mounter().path / logged.version / "checked/variants"
    # The recorded size is true here, and that of a compressed answer there: nothing tells it apart,
    # so that each is asked for.
    sizes = [int(line.split()[4]) for line in check("ls", "-l", folder).splitlines()[1:]]
    assert sizes == [len(SMALL), len(LARGE), len(SMALL)]
    with (folder / "small.txt").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == len(SMALL)
        assert file.read() == SMALL


def test_each_program_gets_the_file(logged: Logged, mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter()
    unchecked = mount.path / logged.version / "unchecked"
    before = len(logged.web.asked)
    folder = unchecked / "norange"
    # Names are listed without a question to anybody.
    assert check("ls", folder).split() == ["large.txt", "small.txt"]
    assert {one.name for one in os.scandir(unchecked)} == set(HABITS)
    assert len(logged.web.asked) == before

    shutil.copy(unchecked / "plain/large.txt", tmp_path)
    assert (tmp_path / "large.txt").read_bytes() == LARGE
    shutil.copytree(unchecked / "norange", tmp_path / "copied")
    check("tar", "-cf", tmp_path / "all.tar", "-C", unchecked, "nohead", "nolength")
    check("tar", "-xf", tmp_path / "all.tar", "-C", tmp_path)
    check("cp", "-r", unchecked / "zerohead", tmp_path)
    check("rsync", "-a", "--no-perms", unchecked / "moved", tmp_path)
    for copied in ("copied", "nohead", "nolength", "zerohead", "moved"):
        assert (tmp_path / copied / "small.txt").read_bytes() == SMALL
    for copied in ("copied", "nolength"):
        assert (tmp_path / copied / "large.txt").read_bytes() == LARGE
    check("dd", f"if={unchecked}/close/small.txt", f"of={tmp_path}/dd", "bs=7000", "status=none")
    assert (tmp_path / "dd").read_bytes() == SMALL
    # As np.fromfile finds out how much there is.
    fd = os.open(unchecked / "nolength/small.txt", os.O_RDONLY)
    assert os.lseek(fd, 0, os.SEEK_END) == len(SMALL)
    os.close(fd)
    # Without a look at its attributes, by whoever knows the size.
    assert map_file(unchecked / "apache/small.txt", len(SMALL)) == SMALL


MAP = """
import ctypes, os, sys
path, size = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
at = libc.mmap(None, size, 1, 1, os.open(path, os.O_RDONLY), 0)
os.write(1, ctypes.string_at(at, size))
"""


def map_file(path: Path, size: int) -> bytes:
    """Return a file's bytes as a program sees them that maps it."""
    return check(sys.executable, "-c", MAP, path, str(size)).encode()


@pytest.mark.promises("3.8")
def test_sizes_are_remembered(logged: Logged, mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter()
    folder = mount.path / logged.version / "unchecked"
    for one in HABITS:
        assert (folder / one / "small.txt").stat().st_size > 0
    # Known as soon as it is told, and then to all later mounts.
    mount.umount()
    before = len(logged.web.asked)
    for options in ([], ["--offline"]):
        later = mounter(options=options)
        for one in HABITS:
            path = later.path / logged.version / "unchecked" / one / "small.txt"
            assert path.stat().st_size == len(expected(logged, f"{one}/small.txt"))
    assert len(logged.web.asked) == before
    # What was never asked for isn't known there; its name is.
    path = later.path / logged.version / "unchecked/plain/large.txt"
    assert path.name in os.listdir(path.parent)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        path.stat()
    assert "--offline" in later.errors()[-1]["cause"]


@pytest.mark.promises("4.10")
def test_a_server_without_ranges_sends_a_large_file_once(
    logged: Logged, mounter: Mounter, tmp_path: Path
) -> None:
    mount = mounter()
    checked = mount.path / logged.version / "checked"
    for habits in ("norange", "nginx+norange"):
        before = len(logged.web.requests(habits, "large.txt"))
        fetched = mount.status()["fetched"]["fetched_bytes"]
        path = checked / habits / "large.txt"
        with path.open("rb", buffering=0) as file:
            # The end first, then anywhere, then all.
            size = file.seek(0, os.SEEK_END)
            for position in (size - 5000, 3 << 20, 100, size // 2, 7 << 20):
                file.seek(position)
                assert file.read(4096) == LARGE[position : position + 4096]
            file.seek(0)
            assert file.read(size) == LARGE
        # What else was asked for before the first answer came is broken off.
        asked = logged.web.requests(habits, "large.txt")[before:]
        assert len([one for one in asked if one.method == "GET"]) <= 3
        assert mount.status()["fetched"]["fetched_bytes"] - fetched == len(LARGE)
    assert not [error for error in mount.errors() if error["operation"] == "read"]


def test_get_and_prefetch_bring_the_same(logged: Logged, mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter()
    name = "{}/{}/{}:{}".format(*logged.version.parts)
    options = ["--cache-dir", tmp_path / "fresh"]
    got = tmp_path / "got"
    check(*WBFS, "prefetch", *options, name, env=mount.env, timeout_s=100)
    before = len(logged.web.asked)
    check(*WBFS, "get", *options, "--root", got, name, env=mount.env, timeout_s=100)
    for folder in ("checked", "unchecked"):
        for one in NAMES:
            assert (got / folder / one).read_bytes() == expected(logged, one), one
    later = mounter(cache=tmp_path / "fresh")
    for folder in ("checked", "unchecked"):
        for one in NAMES:
            path = later.path / logged.version / folder / one
            assert path.stat().st_size == len(expected(logged, one)), path
            assert path.read_bytes() == expected(logged, one), path
    # No size is asked for again.
    assert not [one for one in logged.web.asked[before:] if one.method == "HEAD"]


def test_a_url_s_password_is_shown_nowhere(
    logged: Logged, mounter: Mounter, tmp_path: Path
) -> None:
    mount = mounter()
    shown = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        for folder in ("checked", "unchecked"):
            path = mount.path / logged.version / folder / "auth/small.txt"
            assert path.read_bytes() == SMALL
            shown += [os.getxattr(path, name) for name in os.listxattr(path)]
            assert b"auth/small.txt" in os.getxattr(path, "user.wandb.uri")
        # Refused, gone and changed: each is told of.
        monkeypatch.setattr("web_habits.PASSWORD", "another one")
        denied = mounter(cache=tmp_path / "another")
        path = denied.path / logged.version / "checked/auth/small.txt"
        with pytest.raises(PermissionError):
            path.read_bytes()
        assert "user and password" in denied.errors()[-1]["cause"]
    monkeypatch.setitem(logged.web.files, "small.txt", b"another one")
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            path.read_bytes()
        monkeypatch.delitem(logged.web.files, "small.txt")
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            path.read_bytes()
    finally:
        monkeypatch.undo()
    for one in (mount, denied):
        shown += [one.log().encode(), json.dumps(one.errors()).encode()]
        shown += [(one.path / ".wbfs" / name).read_bytes() for name in ("status.json", "metrics")]
    told = b"\n".join(shown)
    assert b"small.txt" in told
    for secret in (LOGIN, PASSWORD, "p%40ss", USER):
        assert secret.encode() not in told


FILES = 120


@pytest.mark.promises("3.8")
def test_a_folder_s_sizes_are_asked_for_many_at_a_time(
    logged: Logged, mounter: Mounter, stand_in: StandIn
) -> None:
    web = logged.web
    urls = {f"{number}": web.url_of("slow", f"{number}") for number in range(FILES)}
    web.files |= {name: b"x" * int(name) for name in urls}
    rows = {name: unchecked(url) for name, url in urls.items()}
    told = {f"{number}.{kind}": number for kind in ("png", "txt") for number in range(10, 30)}
    web.files |= {name: b"x" * size for name, size in told.items()}
    for name, size in told.items():
        rows[f"told/{name}"] = unchecked(web.url_of("plain", name)) | {"size": size}
    version = log_version_of(stand_in, "sizes", folders=1, files_per_folder=1, extra=rows)
    folder = mounter().path / version.source.replace(":", "/")
    # Whoever wants one asks for one.
    web.most = 0
    assert (folder / "77").stat().st_size == 77
    assert web.most == 1
    before = len(web.asked)
    lines = check("ls", "-l", folder).splitlines()
    sizes = {line.split()[-1]: int(line.split()[4]) for line in lines[1:]}
    assert {name: sizes[name] for name in urls} == {name: int(name) for name in urls}
    asked = [one.name for one in web.asked[before:] if one.method == "HEAD"]
    assert len(asked) == len(set(asked)) == FILES - 1
    assert 4 <= web.most <= 16
    # What the manifest tells may be of a compressed answer, but not of a picture.
    assert {name: (folder / "told" / name).stat().st_size for name in told} == told
    asked = {one.name for one in web.asked if one.name in told}
    assert {name.partition(".")[2] for name in told.keys() - asked} == {"png"}
    assert len(asked) == 1 + len(told) / 2


def test_a_silent_server_is_asked_for_a_file_or_two(
    logged: Logged, mounter: Mounter, stand_in: StandIn
) -> None:
    web = logged.web
    names = [f"silent{number:03}" for number in range(FILES)]
    silent, heard = (web.url_of("silent", name) for name in (names[0][:-3], "small.txt"))
    rows = {f"silent/{name}": unchecked(f"{silent}{name[-3:]}") for name in names}
    rows |= {f"mixed/{name}": unchecked(url) for name, url in (("1", silent), ("2", heard))}
    version = log_version_of(stand_in, "silent", folders=1, files_per_folder=1, extra=rows)
    folder = mounter(options=["--timeout", "10"]).path / version.source.replace(":", "/")
    # One file may be at fault, and holds up no other one.
    with pytest.raises(TimeoutError):
        (folder / "mixed/1").stat()
    assert (folder / "mixed/2").stat().st_size == len(SMALL)
    # But a second one that is silent too is the server, which is left alone for a while.
    assert sorted(os.listdir(folder / "silent")) == names
    refused = 0
    for name in names[:50]:
        asked = len(web.asked)
        with pytest.raises(TimeoutError):
            (folder / "silent" / name).stat()
        refused += len(web.asked) == asked
    assert refused > 25


def unchecked(url: str) -> dict[str, object]:
    """Return a manifest's row for what was logged with checksum=False."""
    return {"digest": url, "ref": url}


def test_an_unchecked_object_that_has_changed_since_its_size_was_told(
    logged: Logged, mounter: Mounter, stand_in: StandIn, tmp_path: Path
) -> None:
    web = logged.web
    for name in ("small", "large"):
        web.files[f"changes/{name}"] = LARGE[: 100 if name == "small" else 5 << 20]
    urls = {name: web.url_of("plain", f"changes/{name}") for name in ("small", "large")}
    rows = {name: unchecked(url) for name, url in urls.items()}
    version = log_version_of(stand_in, "changes", folders=1, files_per_folder=1, extra=rows)
    folder = mounter().path / version.source.replace(":", "/")
    for name in urls:
        path = folder / name
        assert path.stat().st_size == len(web.files[f"changes/{name}"])
        web.files[f"changes/{name}"] += b"more"
        # Not a part of it, and not what the size was of.
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            path.read_bytes()
        # The kernel is told, by a thread that no operation waits for.
        wait_until(partial(size_is, path, name, web), what="the new size is shown")
        assert path.read_bytes() == web.files[f"changes/{name}"]


def test_a_server_that_tells_wrong_sizes_of_some_files(
    logged: Logged, mounter: Mounter, stand_in: StandIn
) -> None:
    web = logged.web
    names = ("bare.bin", "small.txt", "bare.md", "small.md")
    web.files |= dict.fromkeys(names, SMALL)
    # Each in a folder of its own: none is asked for beside another one.
    rows = {f"{name}/it": unchecked(web.url_of("wronghead", name)) for name in names}
    version = log_version_of(stand_in, "some", folders=1, files_per_folder=1, extra=rows)
    folder = mounter().path / version.source.replace(":", "/")
    # What is true of one file is believed of those of its type.
    for name in names[:3]:
        assert (folder / name / "it").stat().st_size == len(SMALL)
    path = folder / "small.md/it"
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        path.read_bytes()
    # And not for ever.
    wait_until(lambda: path.stat().st_size == len(SMALL), what="the true size is shown")
    assert path.read_bytes() == SMALL


def test_answers_that_are_cut(logged: Logged, mounter: Mounter, stand_in: StandIn) -> None:
    urls = {one: logged.web.url_of(one, "large.txt") for one in ("cuts", "cuts+noetag")}
    rows = {one: unchecked(url) for one, url in urls.items()}
    version = log_version_of(stand_in, "cuts", folders=1, files_per_folder=1, extra=rows)
    folder = mounter().path / version.source.replace(":", "/")
    assert (folder / "cuts").read_bytes() == LARGE
    # Nothing tells that the rest is of the same object.
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (folder / "cuts+noetag").read_bytes()


def size_is(path: Path, name: str, web: Web) -> bool:
    """Whether a file is shown to be as large as it is now."""
    return path.stat().st_size == len(web.files[f"changes/{name}"])

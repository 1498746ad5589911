"""`mount.wbfs`: what becomes of the options of a line of /etc/fstab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from mounts import WBFS, run

from wbfs.cli.mounts import mount_helper
from wbfs.cli.mounts.mount_helper import run_helper


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what would have been mounted, by the options' names."""
    found: list[dict[str, Any]] = []

    def invoke(context: click.Context) -> None:
        found.append(context.params)

    monkeypatch.setattr(mount_helper.mount, "invoke", invoke)
    # What it does to the environment is undone.
    for name in ("HOME", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.setenv(name, "/nowhere")
    return found


def test_options_are_those_of_wbfs_mount(mounted: list[dict[str, Any]], tmp_path: Path) -> None:
    given = ["-o", "rw,allow_other,cache_size=2GiB,uid=1000", "-o", "umask=027,path_prefix=a=b"]
    assert run_helper(["team/project", str(tmp_path), *given]) == 0
    (options,) = mounted
    assert options["source_and_mountpoint"] == ("team/project", str(tmp_path))
    assert (options["allow_other"], options["cache_size"]) == (True, 2 << 30)
    assert (options["uid"], options["umask"], options["path_prefix"]) == (1000, 0o027, "a=b")
    assert options["foreground"] is False


def test_options_of_all_filesystems_are_taken(
    mounted: list[dict[str, Any]], tmp_path: Path
) -> None:
    generic = (
        "rw,ro,defaults,dev,nodev,suid,nosuid,exec,noexec,atime,noatime,relatime,auto,noauto,user,"
        "users,owner,group,nofail,_netdev,sync,async,default_permissions,fsname=a,subtype=b,"
        "x-systemd.automount,x-systemd.mount-timeout=120,X-mount.mkdir,comment=systemd.automount,"
    )
    assert run_helper(["-sfnv", "a/b", str(tmp_path), "-o", generic]) == 0
    assert run_helper(["a/b", str(tmp_path), "-n", "-v", "-t", "wbfs", "-o", generic]) == 0
    assert len(mounted) == 1


@pytest.mark.parametrize("source", ["none", "wbfs", ""])
def test_everything_has_a_source_too(
    mounted: list[dict[str, Any]], tmp_path: Path, source: str
) -> None:
    assert run_helper([source, str(tmp_path), "-o", "rw"]) == 0
    assert mounted[0]["source_and_mountpoint"] == (str(tmp_path),)


@pytest.mark.parametrize(("given", "words"), [("wbfs", ()), ("a/b:v0", ("a/b:v0",))])
def test_a_source_that_mount_has_made_a_path_of(
    mounted: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    words: tuple[str, ...],
) -> None:
    # It does so where there is a folder of that name.
    monkeypatch.chdir(tmp_path)
    assert run_helper([str(tmp_path / given), str(tmp_path), "-o", "rw"]) == 0
    assert mounted[0]["source_and_mountpoint"] == (*words, str(tmp_path))


def test_values_in_quotes_have_commas(mounted: list[dict[str, Any]], tmp_path: Path) -> None:
    assert run_helper(["a", str(tmp_path), "-o", 'ro,path_prefix="b,c d",pin']) == 0
    assert (mounted[0]["path_prefix"], mounted[0]["pin"]) == ("b,c d", True)


def test_variables_are_set(
    mounted: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WBFS_CACHE_DIR", "/nowhere")
    options = f"env=WANDB_BASE_URL=https://a.example/?b=c,env=WBFS_CACHE_DIR={tmp_path}/cache"
    assert run_helper(["a", str(tmp_path), "-o", options]) == 0
    assert mounted[0]["cache_dir"] == tmp_path / "cache"
    assert mount_helper.os.environ["WANDB_BASE_URL"] == "https://a.example/?b=c"


def test_what_the_table_says_is_not_said_by_the_environment(
    mounted: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A mount in front would have mount(8), and a boot, wait for ever.
    for name in ("FOREGROUND", "SOURCE", "MOUNTPOINT", "FD_SOCKET"):
        monkeypatch.setenv(f"WBFS_{name}", "1")
    monkeypatch.setenv("WBFS_ALIAS_TTL", "7")
    assert run_helper(["none", str(tmp_path), "-o", "env=WBFS_FOREGROUND=1"]) == 0
    (options,) = mounted
    assert (options["foreground"], options["fd_socket"], options["alias_ttl"]) == (False, None, 7)
    assert not {"WBFS_SOURCE", "WBFS_MOUNTPOINT"} & mount_helper.os.environ.keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("alow_other", "there is no option 'alow_other': there are cache_dir, cache_size"),
        ("alow_other=hunter2", "there is no option 'alow_other'"),
        ("foreground", "there is no option 'foreground'"),
        ("fd_socket=/a", "there is no option 'fd_socket'"),
        ("help", "there is no option 'help'"),
        ("pin=yes", "the option pin takes no value"),
        ("cache_dir", "the option cache_dir needs a value, as in cache_dir=..."),
        ("cache_size=hunter", "Invalid value for '--cache-size'"),
        ("remount,ro", "unmount it, and mount it again"),
        ("env=PATH", "as in env=WANDB_BASE_URL="),
        ("env", "as in env=WANDB_BASE_URL="),
        ("env=WANDB_API_KEY=hunter2", "name that with token_file=FILE"),
    ],
)
@pytest.mark.parametrize("fake", [True, False])
def test_what_is_wrong_is_said_in_a_line(
    mounted: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: str,
    words: str,
    fake: bool,
) -> None:
    assert run_helper(["a", str(tmp_path), *(["-f"] if fake else []), "-o", options]) == 1
    assert not mounted
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mount.wbfs: ")
    assert words in line
    assert "hunter2" not in line


def test_unknown_options_may_be_left_out(mounted: list[dict[str, Any]], tmp_path: Path) -> None:
    assert run_helper(["a", str(tmp_path), "-s", "-o", "pin,max_read=1048576,nosuch"]) == 0
    assert mounted[0]["pin"] is True


def test_commands_are_not_taken_for_sources(tmp_path: Path) -> None:
    done = run(*WBFS, "mount", tmp_path, "-o", "ro", env={})
    assert done.returncode == 2
    assert "No such option" in done.stderr

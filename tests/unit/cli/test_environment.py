"""The environment's paths and limits, settled when a command starts."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from wbfs.cli.given import places
from wbfs.cli.given.options import AnyPath
from wbfs.cli.given.places import sdk_cache_dir, settle_paths
from wbfs.model.errors import UsageError


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working directory; nothing of the environment is changed for good."""
    before = dict(os.environ)
    for name in (*places._PATHS, *places._LISTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("name", [*places._PATHS, *places._LISTS, "HOME"])
def test_paths_are_those_of_the_start(work: Path, name: str) -> None:
    os.environ[name] = "there/../file"
    settle_paths()
    # With links on the way, what is behind ".." is not known.
    assert os.environ[name] == f"{work}/there/../file"
    os.environ[name] = "/from/the/root"
    settle_paths()
    assert os.environ[name] == "/from/the/root"


def test_a_tilde_is_the_home(work: Path) -> None:
    os.environ |= {"NETRC": "~/netrc", "WANDB_CACHE_DIR": "~", "AWS_CONFIG_FILE": "./~nobody-x/aws"}
    settle_paths()
    assert os.environ["NETRC"] == "/home/ada/netrc"
    assert sdk_cache_dir() == Path("/home/ada")
    assert os.environ["AWS_CONFIG_FILE"] == f"{work}/~nobody-x/aws"


@pytest.mark.parametrize("name", ["HOME", "WBFS_CACHE_DIR", "AWS_CONFIG_FILE"])
def test_nobody_s_home(work: Path, name: str) -> None:
    os.environ[name] = "~nobody-x/there"
    with pytest.raises(UsageError, match=f"^{name} '~nobody-x/there': there is no such home"):
        settle_paths()
    # Where things are looked for, one place more is missing, and none is made.
    os.environ |= {name: "/there", "PYTHONPATH": "~nobody-x"}
    settle_paths()


def test_what_is_unset_or_empty_stays_so(work: Path) -> None:
    os.environ["NETRC"] = ""
    os.environ["PYTHONPATH"] = ":lib::/usr/lib"
    settle_paths()
    assert os.environ["NETRC"] == ""
    assert os.environ["PYTHONPATH"] == f":{work}/lib::/usr/lib"
    assert "AWS_CONFIG_FILE" not in os.environ


@pytest.mark.parametrize("home", [None, ""])
def test_no_home(work: Path, monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    def no_such_user(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    for find, expected in ((pwd.getpwuid, pwd.getpwuid(os.getuid()).pw_dir), (no_such_user, "/")):
        monkeypatch.setattr(pwd, "getpwuid", find)
        os.environ.pop("HOME", None)
        if home is not None:
            os.environ["HOME"] = home
        settle_paths()
        assert os.environ["HOME"] == expected


def test_a_working_directory_that_is_gone(work: Path) -> None:
    os.environ["NETRC"] = "netrc"
    work.rmdir()
    with pytest.raises(UsageError, match="NETRC 'netrc' is relative .* is gone"):
        settle_paths()
    with pytest.raises(UsageError, match="the path 'cache' is relative .* is gone"):
        AnyPath().convert("cache", None, None)
    assert AnyPath().convert("/cache", None, None) == Path("/cache")


def test_an_option_s_path(work: Path) -> None:
    assert AnyPath().convert("~/cache", None, None) == Path("/home/ada/cache")
    assert AnyPath().convert("cache", None, None) == work / "cache"
    with pytest.raises(UsageError, match="no such home"):
        AnyPath().convert("~nobody-here/cache", None, None)
    with pytest.raises(click.BadParameter, match="no path"):
        AnyPath().convert("", None, None)

"""Commands in any environment end in time, with a known code and in words, never a traceback."""

from __future__ import annotations

import os
import pwd
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stand_in import StandIn

from wbfs.cli.main import main

CODES = (0, 1, 2, 77, 78)
ANSWERS = ("status", "doctor")
"""Commands whose exit code, 3 too, is part of what they print."""
LONGEST_S = 100.0
EXAMPLES = int(os.environ.get("WBFS_TEST_ENVIRONMENTS", "40"))
"""How many environments are tried; more than in a short run, if that says so."""

TEXTS = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_USERNAME")
TEXTS += ("WANDB_USER_EMAIL", "WANDB_X_EXTRA_HTTP_HEADERS", "WANDB__PROXIES", "WANDB_HTTP_PROXY")
TEXTS += ("HTTP_PROXY", "http_proxy", "all_proxy", "no_proxy", "WANDB_INSECURE_DISABLE_SSL")
TEXTS += ("WBFS_MANIFEST_LIMIT", "WANDB_APP_URL", "LANG", "PYTHONPATH")
PATHS = ("HOME", "NETRC", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
PATHS += (
    "WBFS_CACHE_DIR",
    "WANDB_CACHE_DIR",
    "WANDB_CONFIG_DIR",
    "WANDB_DIR",
    "WANDB_ARTIFACT_DIR",
)
PATHS += ("WANDB_IDENTITY_TOKEN_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PATHS += ("WBFS_TOKEN_FILE", "WBFS_LOCK", "CREDENTIALS_DIRECTORY")
PATHS += ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_APPLICATION_CREDENTIALS")

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("get", "no/such/artifact:v0"),
    ("get", "artifact"),
    ("get", "https://wandb.ai/a/b/artifacts/c/d/v0"),
    ("prefetch", "no/such/artifact:v0"),
    ("prefetch", "nothing here"),
    ("cache", "info"),
    ("cache", "list", "--json"),
    ("cache", "verify"),
    ("cache", "prune", "--to", "1GB"),
    ("umount", "somewhere"),
    ("status", "somewhere"),
    ("why", "somewhere/else"),
    ("doctor",),
    ("lock", "no/such/artifact:v0"),
    ("use", "no/such/artifact:v0"),
    ("put", "--type=x", "nothing", "a/b/c"),
)
"""What can be run here; a mount can not, which leaves this process to its daemon."""
ODD_FILES = ("directory", "binary", "doubled", "loop", "missing", "file", "file/below")
ODD_FILES += ("loop/below", "pipe")
OPTIONS = ("--cache-dir=", "--cache-dir=~/x", "--cache-dir=x", "--cache-dir=/proc/x")
GARBAGE = (
    "garbage",
    "http://[::1",
    "\x1b[2J",
    "a\nb",
    "\udcff",
    "x" * 5000,
    "{",
    "-1",
    "://",
    "%",
    "é",
)


def broken(folder: Path) -> dict[str, str]:
    """Return paths to what is none of the files that are meant, by what they are."""
    (folder / "directory").mkdir()
    (folder / "file").write_text("x")
    (folder / "binary").write_bytes(b"\xff\xfe\0" * 100)
    (folder / "doubled").write_text("[default]\nentity = a\nentity = b\n")
    # Even root can't read it.
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    (folder / "wandb").mkdir()
    (folder / "wandb/settings").mkdir()
    return {name: str(folder / name) for name in ODD_FILES} | {
        "relative": "some/where",
        "~": "~/there",
        "~~": "~nobody/there",
        # What it leads to even root may not look at in many a container.
        "closed": "/proc/1/root/there",
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return broken(tmp_path_factory.mktemp("broken"))


@pytest.fixture(scope="module")
def usual(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return stand_in.env(tmp_path_factory.mktemp("home"))


def nobody(number: int) -> pwd.struct_passwd:
    """Know no user."""
    raise KeyError(number)


@contextmanager
def environment(values: Mapping[str, str], folder: Path, *, is_gone: bool) -> Iterator[None]:
    """Have those values, and no other, in force; and the folder be the working directory.

    is_gone: it was removed meanwhile.
    """
    before, where = dict(os.environ), os.getcwd()
    os.environ.clear()
    os.environ.update(values)
    os.chdir(folder)
    if is_gone:
        folder.rmdir()
    try:
        yield
    finally:
        os.chdir(where)
        os.environ.clear()
        os.environ.update(before)


Settings = st.dictionaries(
    st.sampled_from(TEXTS + PATHS),
    st.sampled_from(
        (
            "unset",
            "",
            *GARBAGE,
            *(
                f"@{name}"
                for name in (
                    *ODD_FILES,
                    "relative",
                    "~",
                    "~~",
                    "closed",
                )
            ),
        )
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=Settings,
    command=st.sampled_from(COMMANDS),
    options=st.lists(st.sampled_from(OPTIONS), max_size=1),
    has_user=st.booleans(),
    is_gone=st.booleans(),
)
@example(changes={"HOME": "unset"}, command=COMMANDS[0], options=[], has_user=False, is_gone=False)
@example(changes={"HOME": ""}, command=COMMANDS[7], options=[], has_user=False, is_gone=True)
@example(
    changes={"CREDENTIALS_DIRECTORY": "@closed", "WANDB_API_KEY": "unset"},
    command=COMMANDS[3],
    options=[],
    has_user=True,
    is_gone=False,
)
@example(
    changes={"WBFS_CACHE_DIR": "@closed"},
    command=("doctor",),
    options=[],
    has_user=True,
    is_gone=False,
)
@example(
    changes={"NETRC": "@~", "WANDB_API_KEY": "unset"},
    command=COMMANDS[3],
    options=[],
    has_user=True,
    is_gone=True,
)
def test_any_environment(
    changes: Mapping[str, str],
    command: tuple[str, ...],
    options: list[str],
    has_user: bool,
    is_gone: bool,
    usual: Mapping[str, str],
    files: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = dict(usual)
    for name, value in changes.items():
        if value == "unset":
            values.pop(name, None)
        else:
            values[name] = files[value[1:]] if value.startswith("@") else value
    if command[0] in ("get", "prefetch"):
        options = [*options, "--timeout=1"]
    elif command[0] in ("umount", "status", "why"):
        options = []
    began = time.monotonic()
    with (
        environment(values, tmp_path_factory.mktemp("work"), is_gone=is_gone),
        monkeypatch.context() as patches,
    ):
        patches.setattr(sys, "argv", ["wbfs", command[0], *options, *command[1:]])
        if not has_user:
            patches.setattr(pwd, "getpwuid", nobody)
        code = code_of(main)
    said = capsys.readouterr()
    is_answer = command[0] in ANSWERS and said.out != ""
    assert code in CODES or is_answer and code == 3, said.err
    assert time.monotonic() - began < LONGEST_S
    assert "Traceback" not in said.err
    assert "defect" not in said.err
    lines = said.err.splitlines()
    if code:
        assert lines or is_answer
    if code != 2:
        assert all(line.startswith("wbfs: ") for line in lines), said.err
    assert "\x1b" not in said.out + said.err


def code_of(command: Callable[[], None]) -> int:
    """Run a command and return the code that it exits with."""
    try:
        command()
    except SystemExit as end:
        return int(end.code or 0)
    return 0

"""Texts from outside do nothing to a terminal, and forge no line of a log."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mounts import WBFS, run
from scripted import Server, reply, scripted_servers

from wbfs.model.text import LineFormatter, plain

HOSTILE = "\x1b[2J\x9b31m\u202eetad\u2066\r\n2026-11-25 10:00:00,000 ERROR forged\x07\udcff\u2028"
TEXTS = st.text(st.characters(exclude_categories=()))
FORBIDDEN = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} | set("\u202e\u2066\u2028")


@pytest.fixture
def server() -> Iterator[Server]:
    with scripted_servers() as start:
        yield start()


def assert_harmless(text: str) -> None:
    for line in text.splitlines():
        assert not FORBIDDEN & set(line), ascii(line)
    assert "\n2026-11-25 10:00:00,000 ERROR forged" not in text


@given(TEXTS)
def test_what_can_not_be_seen_is_escaped(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    shown.encode()
    if "\\" not in text and "'" not in text:
        # What it was can still be told.
        assert ast.literal_eval(f"'{shown}'") == text
    assert plain("plain text, 日本語, é") == "plain text, 日本語, é"


def logged(call: object, *args: object, failure: Exception | None = None) -> str:
    """Return what a logger's call becomes in a log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        if failure is not None:
            raise failure
        logger.error(call, *args)
    except Exception:
        logger.exception(call, *args)
    return stream.getvalue()


@given(TEXTS, TEXTS)
def test_an_event_is_a_line_in_the_log(text: str, other: str) -> None:
    line = logged("read %s: %s", text, other)
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert line[:-1].isprintable()


@given(TEXTS)
def test_a_traceback_holds_no_line_that_looks_like_an_event(text: str) -> None:
    first, *others = logged("a defect", failure=ValueError(text)).split("\n")
    assert first.endswith("a defect")
    assert others.pop() == ""
    assert "Traceback" in others[0]
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def environment(server: Server, home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "k" * 40,
        "no_proxy": "*",
    }


def test_a_server_s_words_are_shown_and_do_nothing(server: Server, tmp_path: Path) -> None:
    answer = json.dumps({"errors": [{"message": HOSTILE}]}).encode()
    server.answers = [reply(400, answer)]
    log_file, mountpoint = tmp_path / "log", tmp_path / "mountpoint"
    mountpoint.mkdir()
    done = run(
        *WBFS, "mount", "--log-file", log_file, mountpoint, env=environment(server, tmp_path)
    )
    assert done.returncode == 1
    for told in (done.stderr, log_file.read_text()):
        assert "forged" in told
        assert r"\x1b[2J\x9b31m\u202eetad\u2066\r\n2026-11-25" in told
        assert_harmless(told)
    done = run(*WBFS, "get", "e/p/a:v0", env=environment(server, tmp_path))
    assert "forged" in done.stderr
    assert_harmless(done.stderr)


def on_terminal(*command: str, env: dict[str, str]) -> str:
    """Return what a program prints to a terminal."""
    mine, its = pty.openpty()
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=its, stderr=subprocess.PIPE
    ) as process:
        os.close(its)
        told = b""
        try:
            while piece := os.read(mine, 65536):
                told += piece
        except OSError:
            # It has ended, and its terminal with it.
            pass
        finally:
            os.close(mine)
            process.wait(100)
    return told.decode()


def test_names_in_what_is_printed(server: Server, tmp_path: Path) -> None:
    hostile = os.fsdecode(b"\x1b[2J\n\xff")
    (tmp_path / hostile).mkdir(mode=0o700)
    command = (*WBFS, "cache", "--cache-dir", str(tmp_path / hostile), "info")
    env = environment(server, tmp_path)
    piped = run(*command, env=env)
    assert piped.returncode == 0, piped.stderr
    for told in (piped.stdout, on_terminal(*command, env=env).replace("\r\n", "\n")):
        assert r"\x1b[2J\n\udcff" in told
        assert_harmless(told)
    found = run(*command, "--json", env=env)
    assert json.loads(found.stdout)["dir"] == str(tmp_path / hostile)
    program = (
        "import pathlib, sys; from wbfs.cli.words import echo; echo.echo_path(pathlib.Path({!r}))"
    )
    command = (sys.executable, "-c", program.format(f"/{hostile}"))
    assert subprocess.check_output(command, timeout=100) == b"/\x1b[2J\n\xff\n"
    assert on_terminal(*command, env=env) == "/\\x1b[2J\\n\\udcff\r\n"


@pytest.mark.parametrize(
    "words", [("status", "--json", "/"), ("deploy",), ("deploy", "fstab"), ("help", "cache")]
)
def test_what_can_not_be_printed_is_said(words: tuple[str, ...], tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path)}
    done = run("sh", "-c", '"$@" >/dev/full', "sh", *WBFS, *words, env=env)
    said = "wbfs: can't print what was asked for: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)
    done = run("sh", "-c", '"$@" 2>/dev/full', "sh", *WBFS, "umount", "/nowhere", env=env)
    assert (done.returncode, done.stderr) == (2, "")


def test_nothing_is_printed_in_another_way() -> None:
    folder = Path(__file__).parents[3] / "wbfs"
    users = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if "click.echo(" in path.read_text() or "click.secho(" in path.read_text()
    }
    assert users == {"cli/words/echo.py"}

"""What commands print: the only user of click's echo. No text can do anything to a terminal."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import click

from wbfs.model.errors import WbfsError
from wbfs.model.text import plain


def echo(text: str = "", *, err: bool = False) -> None:
    """Print a line, to the error output if it is about the command itself."""
    _print(plain(text), err=err)


def echo_path(path: Path) -> None:
    """Print a path: as it is for programs, and as a line on a terminal."""
    if sys.stdout.isatty():
        echo(str(path))
    else:
        _print(os.fsencode(path))


def echo_json(value: object) -> None:
    """Print JSON. All but one of what a terminal may act on is escaped in it anyway."""
    _print(json.dumps(value).replace("\x7f", "\\u007f"))


def echo_page(text: str) -> None:
    """Print a long text of our own: as it is for programs, by screens on a terminal."""
    if sys.stdout.isatty():
        click.echo_via_pager(text)
    else:
        _print(text, nl=False)


def _print(text: str | bytes, *, err: bool = False, nl: bool = True) -> None:
    """Print it. Raises WbfsError where the output is on a disk that is full, for instance."""
    try:
        click.echo(text, err=err, nl=nl)
    except OSError as error:
        if error.errno == errno.EPIPE:
            # Whoever reads has enough; click ends the command without a word.
            raise
        # What is left of it would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2 if err else 1)
        if not err:
            raise WbfsError(f"can't print what was asked for: {error.strerror}") from error

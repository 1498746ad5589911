"""What commands print: the only user of click's echo. No text can do anything to a terminal."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from wbfs.model.text import plain


def echo(text: str = "", *, err: bool = False) -> None:
    """Print a line, to the error output if it is about the command itself."""
    click.echo(plain(text), err=err)


def echo_path(path: Path) -> None:
    """Print a path: as it is for programs, and as a line on a terminal."""
    if sys.stdout.isatty():
        echo(str(path))
    else:
        click.echo(os.fsencode(path))


def echo_json(value: object) -> None:
    """Print JSON. All but one of what a terminal may act on is escaped in it anyway."""
    click.echo(json.dumps(value).replace("\x7f", "\\u007f"))


def echo_page(text: str) -> None:
    """Print a long text of our own: as it is for programs, by screens on a terminal."""
    if sys.stdout.isatty():
        click.echo_via_pager(text)
    else:
        click.echo(text, nl=False)

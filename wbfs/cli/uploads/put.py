"""`wbfs put`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from wbfs.cli.given.options import cache_dir_option, timeout_option
from wbfs.cli.given.places import sdk_cache_dir, user_path
from wbfs.cli.words.echo import echo
from wbfs.cli.words.interruption import quiet_interruption
from wbfs.model.settings import SessionSettings

MAX_METADATA_BYTES = 16 << 20


def _metadata(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> dict[str, Any] | None:
    """Return a JSON object, given as it is or by `@` and the path of a file that holds it."""
    if text is None:
        return None
    what = "it"
    try:
        if text.startswith("@"):
            what = text[1:]
            with user_path(what).open(encoding="utf-8") as file:
                text = file.read(MAX_METADATA_BYTES)
        found = json.loads(text)
        # Numbers beyond JSON's, and halves of characters, make a version that no SDK can read.
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{what} can't be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter(f'{what} is no JSON object, like {{"rows": 100}}')
    return found


def _description(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> str | None:
    """Return a text that the server can be told."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("it is not UTF-8") from error
    return text


@click.command(short_help="Make a version of a file, a folder or references.")
@click.argument("words", nargs=-1, metavar="[PATH] [ENTITY/]PROJECT/NAME")
@click.option("--type", "type_", metavar="TYPE", required=True, help="Such as dataset or model.")
@click.option(
    "--alias",
    "aliases",
    metavar="ALIAS",
    multiple=True,
    help="A name for it beside latest, moved there from another version; as often as you like.",
)
@click.option("--description", metavar="TEXT", callback=_description, help="What is said of it.")
@click.option(
    "--metadata", metavar="JSON|@FILE", callback=_metadata, help="A JSON object about it."
)
@click.option(
    "--reference",
    "references",
    metavar="URI",
    multiple=True,
    help="What it refers to and stays where it is, as artifact.add_reference does; with or without"
    " a PATH, as often as you like.",
)
@click.option(
    "--use",
    "run",
    metavar="auto|[[ENTITY/]PROJECT/]RUN",
    default="",
    help="Record it as an input of that run, or of the one that this command is started by.",
)
@cache_dir_option("Where lists of files are kept. For what is on a mount, it is the mount's.")
@timeout_option
def put(
    words: tuple[str, ...],
    type_: str,
    aliases: tuple[str, ...],
    description: str | None,
    metadata: dict[str, Any] | None,
    references: tuple[str, ...],
    run: str,
    cache_dir: Path,
    timeout: float,
) -> None:
    """Make a version of what is at PATH, and print its name.

    Where the content is there already, nothing is uploaded and no run is made: it is that version,
    and gets the aliases. What lies below a mount of yours, or is a link to it, is not read, and of
    the server's files none is sent again. Symbolic links are followed. The wandb SDK does the
    uploading, in a run of its own of job type wbfs_put.

    Your mounts show it as soon as this returns; where, is said on the error output.

    \b
    Examples:
      wbfs put data/bikes my-project/bike-dataset --type dataset --alias best
      cp -rs --no-preserve=mode ~/artifacts/my-team/my-project/bike-dataset/v6 v7
      cp new/*.png v7/images
      wbfs put v7 my-team/my-project/bike-dataset --type dataset --use auto
      wbfs put my-project/pictures --type dataset --reference s3://bucket/pictures
    """
    if not all(words) or (len(words) != 2 and not (len(words) == 1 and references)):
        raise click.UsageError("give a PATH, or --reference, and [ENTITY/]PROJECT/NAME")
    *paths, name = words
    with quiet_interruption():
        # Imported late: `wbfs --help` needs none of it.
        from wbfs.cli.uploads.content import Content, look_through
        from wbfs.cli.uploads.putting import Order, Outcome, check_words, put_all
        from wbfs.cli.uploads.sdk import require_sdk
        from wbfs.cli.versions.inputs import exit_code_of_all
        from wbfs.cli.words.progress import SayHandler, progress
        from wbfs.remote.credentials import load_credentials

        require_sdk()
        check_words(name, type_, aliases)
        shown = progress()
        logging.basicConfig(handlers=[SayHandler(shown)], level=logging.WARNING)
        content = Content()
        for path in paths:
            server = load_credentials(key_is_needed=False).base_url
            content = look_through(user_path(path), server=server)
        own = next((one.at.cache.cache_dir for one in content.shown), cache_dir)
        order = Order(
            place=name,
            type=type_,
            aliases=aliases,
            description=description,
            metadata=metadata,
            references=references,
            run=run,
            content=content,
        )
        settings = SessionSettings(cache_dir=own, sdk_cache_dir=sdk_cache_dir(), timeout_s=timeout)
        outcome = Outcome()
        try:
            ended = put_all(settings, order, shown, outcome)
        finally:
            shown.close()
        version = outcome.version
        if version is not None:
            echo(version.path)
            for line in outcome.lines():
                echo(f"wbfs: {line}", err=True)
        if content.empty_folders:
            folders = f"{content.empty_folders:,} empty folders"
            echo(f"wbfs: {folders} are left out: artifacts have none", err=True)
        if ended.failure is not None:
            raise ended.failure
        if ended.signal is not None:
            echo("wbfs: interrupted", err=True)
            sys.exit(128 + ended.signal)
        sys.exit(exit_code_of_all(outcome.recorded))

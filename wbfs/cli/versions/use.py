"""`wbfs use`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from wbfs.cli.given.options import cache_dir_option, timeout_option
from wbfs.cli.given.places import sdk_cache_dir
from wbfs.cli.words.echo import echo
from wbfs.cli.words.interruption import quiet_interruption
from wbfs.model.settings import AUTO_RUN, SessionSettings


@click.command(short_help="Record versions as inputs of a run.")
@click.argument("names", nargs=-1, metavar="[NAME|PATH]...")
@click.option(
    "--run",
    envvar="WBFS_RUN",
    default=AUTO_RUN,
    metavar="auto|[[ENTITY/]PROJECT/]RUN",
    show_default="WBFS_RUN, or auto: the run that this command is started by",
    help="The run, by its id. Parts left out come from your W&B settings.",
)
@click.option(
    "--pending", is_flag=True, help="Send also what waits: what was not known of before, or failed."
)
@cache_dir_option("Where what waits is kept. For a path, it is the mount's.")
@timeout_option
def use(names: tuple[str, ...], run: str, pending: bool, cache_dir: Path, timeout: float) -> None:
    """Record versions as inputs of a run, as run.use_artifact does, and print which.

    PATH is anything in a version below a mount of yours; NAME is entity/project/artifact:alias,
    and parts left out in front of artifact:alias come from your W&B settings. Twice is once, and
    the server can't be told to forget it.

    What can't be recorded yet, since the server can't be reached or the run is not there, is kept
    for seven days, and sent by your next mount with this cache or by --pending; the exit code is 1
    meanwhile. It is 77 where you may not, or there is no such artifact.

    \b
    Examples:
      wbfs use my-team/my-project/bike-dataset:v3 --run my-team/my-project/1a2b3c4d
      wbfs use ~/artifacts/my-team/my-project/bike-dataset/latest
      wbfs use --pending
    """
    if not names and not pending:
        raise click.UsageError("give a NAME or a PATH, or --pending")
    with quiet_interruption():
        # Imported late: `wbfs --help` needs none of it.
        from wbfs.cli.files.orders import look_at_all
        from wbfs.cli.versions.inputs import exit_code_of_all, record

        logging.basicConfig(level=logging.ERROR)
        places = look_at_all(names)
        settings = SessionSettings(
            cache_dir=places.cache.cache_dir if places.cache else cache_dir,
            sdk_cache_dir=sdk_cache_dir(),
            timeout_s=timeout,
        )
        done = record(settings, places.places, run, send_all=pending)
        for one in done:
            echo(str(one) if one.is_done else f"wbfs: {one}", err=not one.is_done)
        sys.exit(exit_code_of_all(done))

"""`wbfs prefetch`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from wbfs.cli.given.options import (
    blob_gateway_option,
    cache_dir_option,
    cache_size_option,
    manifest_limit_option,
    min_free_option,
    timeout_option,
)
from wbfs.cli.given.places import sdk_cache_dir
from wbfs.cli.words.echo import echo
from wbfs.cli.words.interruption import quiet_interruption
from wbfs.cli.words.logs import default_log_file, show_warnings, start_logging
from wbfs.cli.words.sizes import show_size
from wbfs.model.errors import UsageError
from wbfs.model.settings import SessionSettings

if TYPE_CHECKING:
    from wbfs.cli.files.orders import Places

COUNT_TIMEOUT_S = 900.0
"""Seconds that a prefetch in the background has to count what there is to fetch."""
OF_THE_MOUNT = ("cache_dir", "cache_size", "min_free", "blob_gateway")
"""Options that a mount has already decided on."""


@click.command(short_help="Fetch files into the cache before they are read.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--wait/--no-wait",
    default=True,
    help="Return when all is fetched, which is the default, or once it is known what there is to"
    " fetch: it is fetched in the background then.",
)
@cache_dir_option(
    "The cache to fetch into, for PATHs that are names; a mount's path means its own."
)
@cache_size_option
@min_free_option
@manifest_limit_option
@blob_gateway_option
@timeout_option
@click.pass_context
def prefetch(
    context: click.Context,
    paths: tuple[str, ...],
    wait: bool,
    cache_dir: Path,
    cache_size: int | None,
    min_free: int,
    manifest_limit: int,
    blob_gateway: str,
    timeout: float,
) -> None:
    """Fetch files into the cache now, so that reading them later asks nobody for anything.

    PATH is a file, a folder or a version below a mount of yours, or the name of one:
    entity/project/artifact:alias, with the path of a folder or a file in it behind, if not all of
    it is meant. Parts left out in front of artifact:alias come from your W&B settings.

    What is here already is not fetched again, and after an interruption the same command goes on
    where it stopped. Every byte is checked; what fails is listed at the end, and the exit code is
    1. If the cache can't hold it all, nothing is fetched.

    \b
    Examples:
      wbfs prefetch ~/artifacts/my-team/my-project/bike-dataset/v3/train
      wbfs prefetch bikes/v3/train bikes/v3/val && python train.py
      wbfs prefetch my-team/my-project/bike-dataset:v3/images
      wbfs prefetch --no-wait bike-dataset:latest
    """
    with quiet_interruption():
        # Imported late: `wbfs --help` needs none of it.
        from wbfs.cli.files.bulk import get_in_front
        from wbfs.cli.files.orders import Prefetch, look_at_all

        places = look_at_all(paths)
        cache = places.cache
        if cache is not None:
            _refuse_options(context)
        settings = SessionSettings(
            cache_dir=cache.cache_dir if cache else cache_dir,
            sdk_cache_dir=sdk_cache_dir(),
            cache_size=cache.cache_size if cache else cache_size,
            min_free=cache.min_free if cache else min_free,
            timeout_s=timeout,
            manifest_limit=manifest_limit,
            blob_gateway=cache.blob_gateway if cache else blob_gateway,
        )
        if wait:
            sys.exit(get_in_front(settings, Prefetch(places, cache_dir=settings.cache_dir)))
        log_file = default_log_file(f"prefetch/{paths[0]}")
        start_logging(log_file, otherwise="by XDG_STATE_HOME")
        _get_behind(settings, places, log_file)


def _get_behind(settings: SessionSettings, places: Places, log_file: Path) -> None:
    """Fetch in the background; return once it is known what. Raises WbfsError."""
    from wbfs.cli.files.bulk import get_all
    from wbfs.cli.files.orders import Prefetch
    from wbfs.cli.words.progress import LoggedLines
    from wbfs.daemon.background import run_in_background

    end_warnings = show_warnings()

    def run(on_ready: Callable[[], None]) -> None:
        def on_counted(files: int, size: int) -> None:
            end_warnings()
            where = f"in the background, as process {os.getpid()}; its log is {log_file}"
            echo(f"wbfs: fetching {files:,} files, {show_size(size)} {where}", err=True)
            on_ready()

        order = Prefetch(places, cache_dir=settings.cache_dir, on_counted=on_counted)
        get_all(settings, order, LoggedLines())

    run_in_background(run, what="the prefetch", log_file=log_file, timeout_s=COUNT_TIMEOUT_S)


def _refuse_options(context: click.Context) -> None:
    for name in OF_THE_MOUNT:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--{name.replace('_', '-')} is the mount's to say for a path below it: leave it"
                " out, or name the version instead"
            )

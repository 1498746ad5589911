"""`wbfs get`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click

from wbfs.cli.given.options import (
    AnyPath,
    as_of_option,
    blob_gateway_option,
    cache_dir_option,
    cache_size_option,
    lock_option,
    manifest_limit_option,
    min_free_option,
    timeout_option,
)
from wbfs.cli.given.places import sdk_cache_dir
from wbfs.cli.words.echo import echo_path
from wbfs.cli.words.interruption import quiet_interruption
from wbfs.model.locks import Locked
from wbfs.model.settings import SessionSettings


@click.command(short_help="Download an artifact to a directory.")
@click.argument("source", metavar="[[ENTITY/]PROJECT/]ARTIFACT[:ALIAS]")
@click.option(
    "--root",
    type=AnyPath(),
    metavar="DIR",
    show_default="where the SDK downloads to: WANDB_ARTIFACT_DIR or ./artifacts, and in there the"
    " source's ARTIFACT:vN",
    help="Where to write the files.",
)
@click.option(
    "--path-prefix",
    default="",
    metavar="PREFIX",
    help="Only files whose path in the artifact starts with PREFIX, as path_prefix does in the SDK:"
    " images/b means images/bikes/1.png too, and /images nothing.",
)
@click.option(
    "--allow-missing-references",
    is_flag=True,
    help="Warn of references whose object is gone, and do without them.",
)
@lock_option
@as_of_option
@cache_dir_option("Where what is fetched is kept as well; mounts may share it.")
@cache_size_option
@min_free_option
@manifest_limit_option
@blob_gateway_option
@timeout_option
def get(
    source: str,
    root: Path | None,
    path_prefix: str,
    allow_missing_references: bool,
    locks: tuple[Locked, ...],
    as_of: datetime | None,
    cache_dir: Path,
    cache_size: int | None,
    min_free: int,
    manifest_limit: int,
    blob_gateway: str,
    timeout: float,
) -> None:
    """Download an artifact, or a part of it, and print the directory that it is in.

    Files that are right in there already are left alone, and strange ones too; what was fetched
    before, by a mount for instance, comes from the cache. After an interruption the same command
    goes on where it stopped. Every byte is checked; what fails is listed at the end, and the exit
    code is 1.

    Without an alias it is the latest version. Parts left out in front of ARTIFACT come from your
    W&B settings.

    \b
    Examples:
      wbfs get my-team/my-project/bike-dataset:v3
      wbfs get bike-dataset --root data/bikes
      wbfs get bike-dataset:latest --path-prefix images/bikes/
      wbfs get my-org/wandb-registry-model/bikes:best --root /models/bikes
    """
    with quiet_interruption():
        # Imported late: `wbfs --help` needs none of it.
        from wbfs.cli.files.bulk import get_in_front
        from wbfs.cli.files.orders import Download

        settings = SessionSettings(
            cache_dir=cache_dir,
            sdk_cache_dir=sdk_cache_dir(),
            cache_size=cache_size,
            min_free=min_free,
            timeout_s=timeout,
            as_of=as_of,
            manifest_limit=manifest_limit,
            blob_gateway=blob_gateway,
        )
        order = Download(
            source,
            root=root,
            path_prefix=path_prefix,
            locks=locks,
            allow_missing_references=allow_missing_references,
        )
        code = get_in_front(settings, order)
        if not code:
            assert order.root is not None
            echo_path(order.root)
        sys.exit(code)

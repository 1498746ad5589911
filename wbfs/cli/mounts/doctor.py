"""`wbfs doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from wbfs.cli.given.options import blob_gateway_option, cache_dir_option
from wbfs.cli.words.echo import echo


@click.command(short_help="Look whether this machine has what mounts need.")
@cache_dir_option("The cache whose place is looked at.")
@blob_gateway_option
@click.pass_context
def doctor(context: click.Context, cache_dir: Path, blob_gateway: str) -> None:
    """Look at what mounts need, and say what to do: FUSE, the kernel's limits, the cache's disk,
    login, clock, proxy, CAs, gateway and extras. The exit code is 1 where something is not well.
    """
    from wbfs.daemon.doctor import findings

    is_well = True
    for finding in findings(cache_dir, blob_gateway):
        is_well = is_well and finding.is_well
        mark = "ok" if finding.is_well else "!!"
        echo(f"{mark} {finding.what:<12} {finding.text}")
        if finding.to_do:
            echo(f"   {'':<12} -> {finding.to_do}")
    context.exit(0 if is_well else 1)

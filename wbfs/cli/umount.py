"""`wbfs umount`."""

from __future__ import annotations

from pathlib import Path

import click

from wbfs.cli.options import AnyPath


@click.command(short_help="Take a mount down.")
@click.argument("mountpoint", type=AnyPath(), metavar="MOUNTPOINT")
@click.option(
    "-z",
    "--lazy",
    is_flag=True,
    help="Detach it now, though programs use it; they go on with what they have open.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Also where its daemon hangs: what programs wait for fails, and the daemon is ended.",
)
def umount(mountpoint: Path, lazy: bool, force: bool) -> None:
    """Take the mount at MOUNTPOINT down and wait for its daemon to end.

    \b
    Examples:
      wbfs umount ~/artifacts
      wbfs umount --force ~/artifacts
    """
    from wbfs.daemon.mounts.table import resolve
    from wbfs.daemon.mounts.taking_down import take_down

    if lazy and force:
        raise click.UsageError("--lazy lets programs go on and --force doesn't: give one of them")
    take_down(resolve(mountpoint), lazy=lazy, force=force)

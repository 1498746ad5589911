"""`wbfs umount`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Take a mount down.")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option(
    "-z",
    "--lazy",
    is_flag=True,
    help="Detach it now, though programs use it; they go on with what they have open.",
)
def umount(mountpoint: Path, lazy: bool) -> None:
    """Take the mount at MOUNTPOINT down and wait for its daemon to end.

    \b
    Example:
      wbfs umount ~/artifacts
    """
    from wbfs.daemon.mountpoint import resolve_mountpoint, unmount_and_wait

    unmount_and_wait(resolve_mountpoint(mountpoint), lazy=lazy)

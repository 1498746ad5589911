"""`wbfs umount`."""

from __future__ import annotations

from pathlib import Path

import click

from wbfs.cli.given.options import AnyPath
from wbfs.cli.words.echo import echo
from wbfs.model.errors import UsageError


@click.command(short_help="Take mounts down; stop is another name for it.")
@click.argument("mountpoints", nargs=-1, type=AnyPath(), metavar="[MOUNTPOINT]...")
@click.option("-a", "--all", "all_of_them", is_flag=True, help="All mounts; for root everybody's.")
@click.option(
    "--dead",
    is_flag=True,
    help="Only those whose daemon has ended; of all mounts if none is named.",
)
@click.option("--if-mounted", is_flag=True, help="Where nothing is mounted, all is well.")
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
@click.pass_context
def umount(
    context: click.Context,
    mountpoints: tuple[Path, ...],
    all_of_them: bool,
    dead: bool,
    if_mounted: bool,
    lazy: bool,
    force: bool,
) -> None:
    """Take the mounts at MOUNTPOINTs down and wait for their daemons to end.

    \b
    Examples:
      wbfs umount ~/artifacts
      wbfs umount --force ~/artifacts
      wbfs umount --dead
    """
    from wbfs.daemon.exit_codes import exit_code_of
    from wbfs.daemon.mounts.table import resolve
    from wbfs.daemon.mounts.taking_down import NotMounted, find_mounts, take_down

    if lazy and force:
        raise click.UsageError("--lazy lets programs go on and --force doesn't: give one of them")
    if bool(mountpoints) == all_of_them and not (dead and not mountpoints):
        raise click.UsageError("give a MOUNTPOINT, or --all or --dead")
    paths = [resolve(path) for path in mountpoints]
    are_found = not paths or dead
    if are_found:
        paths = find_mounts(paths or None, only_dead=dead)
    # What was found may be gone by itself.
    if_mounted = if_mounted or are_found
    codes = [0]
    for path in paths:
        try:
            take_down(path, lazy=lazy, force=force, only_dead=dead)
        except UsageError as error:
            if if_mounted and isinstance(error, NotMounted):
                continue
            # The others come down all the same.
            echo(f"wbfs: {error}", err=True)
            codes.append(exit_code_of(error))
    context.exit(max(codes))

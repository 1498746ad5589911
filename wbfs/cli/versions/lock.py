"""`wbfs lock`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from wbfs.cli.given.options import AnyPath, cache_dir_option, timeout_option
from wbfs.cli.given.places import sdk_cache_dir
from wbfs.cli.given.sources import source_of
from wbfs.cli.versions.lock_files import read_locks, write_locks
from wbfs.cli.words.echo import echo
from wbfs.cli.words.interruption import quiet_interruption
from wbfs.daemon.exit_codes import MOVED
from wbfs.model.errors import NotFound, UsageError
from wbfs.model.locks import Locked
from wbfs.model.settings import SessionSettings


@click.command(short_help="Write down which version each alias is.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--file",
    type=AnyPath(),
    default="wbfs.lock",
    show_default=True,
    metavar="FILE",
    help="The lock file.",
)
@click.option("--check", is_flag=True, help="Change nothing, and tell what has moved since.")
@click.option("--update", is_flag=True, help="Take what has moved since as it is now.")
@cache_dir_option("Where the names that are looked up are kept.")
@timeout_option
def lock(
    names: tuple[str, ...],
    file: Path,
    check: bool,
    update: bool,
    cache_dir: Path,
    timeout: float,
) -> None:
    """Write down which version each NAME is, in a file for wbfs mount --lock and wbfs get --lock.

    NAME is entity/project/artifact:alias; parts left out in front come from your W&B settings. What
    the file has already stays as it is there, but with --update, which without a NAME is of all.
    The exit code of --check is 3 where an alias has moved, or is gone; 1 where that can't be told.

    \b
    Examples:
      wbfs lock my-team/my-project/bike-dataset:latest my-team/my-project/model:best
      wbfs lock --check
      wbfs lock --update my-team/my-project/model:best
      wbfs mount --lock wbfs.lock ~/artifacts
    """
    if check and update:
        raise click.UsageError("--check changes nothing: leave it or --update out")
    if not (names or check or update):
        raise click.UsageError("give a NAME, or --check or --update")
    with quiet_interruption():
        # Imported late: `wbfs --help` needs none of it.
        from wbfs.cli.versions.locking import look_up_all

        # A file that isn't there yet is one to be written.
        known = read_locks(file) if check or update or os.path.exists(file) else {}
        settings = SessionSettings(
            cache_dir=cache_dir, sdk_cache_dir=sdk_cache_dir(), timeout_s=timeout
        )
        wanted = [source_of(name) for name in names] or list(known)
        found = look_up_all(settings, wanted)
        if check:
            sys.exit(_say_what_moved(known, found))
        for name, now in found.items():
            if isinstance(now, NotFound):
                hint = f"; take it out of {file}, or name those to update" if name in known else ""
                raise NotFound(f"{now}{hint}") from now
        locked = {name: now for name, now in found.items() if isinstance(now, Locked)}
        locks = known | locked if update else locked | known
        write_locks(file, locks.values())
        for name in locked:
            echo(f"{name} is {locks[name].version}")
            if locks[name] != locked[name]:
                echo(f"wbfs: it is {locked[name].version} now: --update takes that", err=True)


def _say_what_moved(known: dict[str, Locked], found: dict[str, Locked | NotFound]) -> int:
    """Say what is no longer as it was, and return the exit code. Raises UsageError."""
    code = 0
    for name, now in found.items():
        before = known.get(name)
        if before is None:
            raise UsageError(f"{name} is not in the lock file: wbfs lock {name} adds it")
        if now == before:
            continue
        code = MOVED
        if isinstance(now, NotFound):
            echo(f"{name} was {before.version}, and is gone: {now}")
        elif now.version == before.version:
            echo(f"{name} is {now.version} as before, but that was logged anew")
        else:
            echo(f"{name} was {before.version} and is {now.version}")
    return code

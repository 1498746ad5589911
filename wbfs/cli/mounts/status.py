"""`wbfs status`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbfs.cli.given.options import AnyPath, Seconds
from wbfs.cli.words.echo import echo, echo_json

if TYPE_CHECKING:
    from wbfs.daemon.mounts.looking.survey import Seen, Survey

LOOK_AGAIN_S = 0.1
SERVER_LOST = 6
"""Exit code of a mount that serves without its server, where that is asked for."""


@click.command(short_help="Show which mounts there are, and how each of them is.")
@click.argument("paths", nargs=-1, type=AnyPath(), metavar="[MOUNTPOINT]...")
@click.option(
    "--wait",
    "wait_s",
    type=Seconds(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long until all of them serve.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a mount may take to answer before it is said to hang.",
)
@click.option("--strict", is_flag=True, help="Exit with 6 where one serves without its server.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list with one object a mount.")
@click.option("--watch", "live", is_flag=True, help="Show it anew each second, until Ctrl-C.")
@click.pass_context
def status(
    context: click.Context,
    paths: tuple[Path, ...],
    wait_s: float,
    timeout_s: float,
    strict: bool,
    as_json: bool,
    live: bool,
) -> None:
    """Show how the mounts at these paths are, or all of them; it never hangs, whatever they do.

    The exit code is 0 where all serve, and else the highest of these: 3 where nothing is mounted, 4
    where a mount is dead, since its daemon has ended, and 5 where one hangs.

    \b
    Examples:
      wbfs status
      wbfs status --wait 60 /data/bikes
      wbfs status --watch
      wbfs status --json | jq '.[].status.cache'
    """
    from wbfs.cli.mounts.status_words import lines
    from wbfs.cli.mounts.watch import watch
    from wbfs.daemon.mounts.looking.survey import Survey
    from wbfs.daemon.mounts.table import resolve

    if live and (as_json or strict or wait_s):
        raise click.UsageError("--watch goes on until Ctrl-C: it goes with --timeout only")
    survey = Survey([resolve(path) for path in paths] or None)
    try:
        if live:
            watch(survey, timeout_s)
            return
        seen = _look(survey, wait_s, timeout_s)
    finally:
        survey.close()
    if as_json:
        echo_json([_document(one) for one in seen])
    elif not seen:
        echo("nothing is mounted", err=True)
    else:
        for number, one in enumerate(seen):
            if number:
                echo()
            for line in lines(one):
                echo(line)
    context.exit(_exit_code(seen, strict=strict))


def _look(survey: Survey, wait_s: float, timeout_s: float) -> list[Seen]:
    """Look until all serve, or the time is over."""
    give_up_s = time.monotonic() + wait_s
    while True:
        seen = survey.look(timeout_s)
        if _exit_code(seen) == 0 or time.monotonic() >= give_up_s:
            return seen
        time.sleep(LOOK_AGAIN_S)


def _exit_code(seen: list[Seen], *, strict: bool = False) -> int:
    from wbfs.daemon.mounts.looking.health import Health

    codes = {Health.SERVES: 0, Health.NOT_MOUNTED: 3, Health.DEAD: 4, Health.HANGS: 5}
    code = max((codes[one.health] for one in seen), default=codes[Health.NOT_MOUNTED])
    if code == 0 and strict and any(one.status.get("server_lost_since") for one in seen):
        return SERVER_LOST
    return code


def _document(seen: Seen) -> dict[str, Any]:
    mount = seen.mount
    return {
        "path": os.fspath(seen.path),
        "state": seen.health,
        "source": seen.source,
        "pid": seen.pid,
        "connection": int(mount.device.partition(":")[2]) if mount else None,
        "waiting": seen.waiting,
        "status": seen.status or None,
    }

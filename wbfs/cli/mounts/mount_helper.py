"""`mount.wbfs`, which mount(8) runs for the type wbfs, and so for a line of /etc/fstab.

mount.fuse3 runs `wbfs SOURCE MOUNTPOINT -o OPTIONS` for the type fuse.wbfs, which means the same.
The environment may be empty. Exit codes are those of mount(8), which passes them on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import click

from wbfs.cli.given.descriptors import allow_descriptors, have_standard_streams
from wbfs.cli.given.inherited import settle_inherited
from wbfs.cli.given.options import AnyPath
from wbfs.cli.given.places import settle_paths
from wbfs.cli.mounts.mount import mount
from wbfs.cli.mounts.mount_options import asked_for, is_generic, is_known, option_words, options_of
from wbfs.cli.words.echo import echo
from wbfs.daemon.exit_codes import WRONG_USE, exit_code_of
from wbfs.model.errors import UsageError, WbfsError

WRONG_INVOCATION = 1
INTERRUPTED = 8
MOUNT_FAILED = 32
"""Exit codes that mount(8) documents."""

EVERYTHING = ("", "none", "wbfs")
"""Sources in the table that stand for no SOURCE: its first column can't be left out."""

_SECRET = re.compile(r"(KEY|PASSWORD|SECRET|TOKEN)$", re.IGNORECASE)


@click.command(
    name="mount.wbfs",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("source")
@click.argument("mountpoint")
@click.option("-o", "texts", multiple=True, metavar="OPTIONS", help="With commas between them.")
@click.option("-f", "fake", is_flag=True, help="Check the options, and mount nothing.")
@click.option("-s", "sloppy", is_flag=True, help="Leave out options that there aren't.")
@click.option("-n", is_flag=True, expose_value=False, help="Of no effect: there is no /etc/mtab.")
@click.option("-v", is_flag=True, expose_value=False, help="Of no effect: its log says all.")
@click.option("-t", metavar="TYPE", expose_value=False, help="Of no effect.")
def mount_helper(
    source: str, mountpoint: str, texts: tuple[str, ...], fake: bool, sloppy: bool
) -> None:
    """Mount artifacts for mount(8), which runs this where it is /sbin/mount.wbfs.

    A SOURCE of none or wbfs is everything that you may see. Options are those of wbfs mount with _
    for -, and env=NAME=VALUE, which sets a variable for it; those of all filesystems are taken.

    \b
    Example, a line of /etc/fstab:
      my-team/my-project /mnt/wandb wbfs ro,allow_other,cache_dir=/var/cache/wbfs,_netdev,nofail 0 0
    """
    environment: dict[str, str] = {}
    words: list[str] = []
    for name, value in options_of(*texts):
        if name == "env":
            variable, setting = _variable(value or "")
            environment[variable] = setting
        elif name == "remount":
            raise UsageError(
                "the options of a mount of wbfs can't be changed: unmount it, and mount it again"
            )
        elif not is_generic(name) and not (sloppy and not is_known(name)):
            words += option_words(name, value, also=("env",))
    os.environ.update(environment)
    settle_paths()
    if source.startswith("/"):
        # No SOURCE does. mount(8) makes a path of whatever is one where it was called.
        source = os.path.relpath(source)
    sources = [] if source in EVERYTHING else [source]
    with asked_for([*words, "--", *sources, mountpoint]) as context:
        if not fake and not _is_mounted("".join(sources), mountpoint):
            mount.invoke(context)


def run_helper(arguments: Sequence[str]) -> int:
    """Run it; return its exit code. Errors are one line, without a traceback."""
    try:
        have_standard_streams()
        settle_inherited()
        allow_descriptors()
        mount_helper.main([*arguments], standalone_mode=False)
        return 0
    except click.ClickException as error:
        echo(f"mount.wbfs: {error.format_message()}", err=True)
        return WRONG_INVOCATION
    except WbfsError as error:
        echo(f"mount.wbfs: {error}", err=True)
        return WRONG_INVOCATION if exit_code_of(error) == WRONG_USE else MOUNT_FAILED
    except click.Abort:
        return INTERRUPTED


def _variable(text: str) -> tuple[str, str]:
    """Return a variable's name and value. Raises UsageError, without the value."""
    name, is_set, value = text.partition("=")
    if not is_set or not name:
        raise UsageError("the option env sets a variable, as in env=WANDB_BASE_URL=https://...")
    if _SECRET.search(name):
        raise UsageError(
            f"env={name} would show a secret to everybody on this machine: put the key in a file"
            " that only root may read, and name that with token_file=FILE"
        )
    return name, value


def _is_mounted(source: str, mountpoint: str) -> bool:
    """Return whether the same is mounted there and serves.

    `mount -a` asks for it again: the kernel's table has no SOURCE by which mount(8) would know it.
    """
    from wbfs.cli.given.sources import source_of
    from wbfs.daemon.mounts.looking.health import LOOK_TIMEOUT_S, Health
    from wbfs.daemon.mounts.looking.survey import Survey
    from wbfs.daemon.mounts.table import resolve

    survey = Survey([resolve(AnyPath().convert(mountpoint, None, None))])
    try:
        (seen,) = survey.look(LOOK_TIMEOUT_S)
    finally:
        survey.close()
    if seen.health is not Health.SERVES:
        return False
    return seen.source == source_of(source)

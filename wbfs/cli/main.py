"""The `wbfs` command."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import NoReturn

import click

from wbfs import __version__
from wbfs.cli.deploy import deploy
from wbfs.cli.devserver import devserver
from wbfs.cli.files.cache import cache
from wbfs.cli.files.get import get
from wbfs.cli.files.prefetch import prefetch
from wbfs.cli.given.descriptors import allow_descriptors, have_standard_streams
from wbfs.cli.given.inherited import settle_inherited
from wbfs.cli.given.places import settle_paths
from wbfs.cli.help import help_
from wbfs.cli.mounts.doctor import doctor
from wbfs.cli.mounts.fluid import fluid
from wbfs.cli.mounts.mount import mount
from wbfs.cli.mounts.mount_helper import run_helper
from wbfs.cli.mounts.status import status
from wbfs.cli.mounts.umount import umount
from wbfs.cli.mounts.why import why
from wbfs.cli.uploads.put import put
from wbfs.cli.versions.lock import lock
from wbfs.cli.versions.use import use
from wbfs.cli.words.echo import echo
from wbfs.daemon.exit_codes import exit_code_of
from wbfs.model.errors import WbfsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="wbfs")
def commands() -> None:
    """Weights & Biases artifacts as a filesystem.

    Mount them, and any program that can open a file can read them. Nothing is downloaded until it
    is read; what was read stays in a local cache.

    \b
    Examples:
      wbfs mount ~/artifacts
      ls ~/artifacts/my-team/my-project/bike-dataset/latest
      wbfs umount ~/artifacts
    """


commands.add_command(mount)
commands.add_command(umount)
commands.add_command(umount, "stop")
commands.add_command(status)
commands.add_command(why)
commands.add_command(doctor)
commands.add_command(get)
commands.add_command(prefetch)
commands.add_command(lock)
commands.add_command(use)
commands.add_command(put)
commands.add_command(cache)
commands.add_command(devserver)
commands.add_command(deploy)
commands.add_command(fluid)
commands.add_command(help_)


def main() -> None:
    """Run the command line; errors are one line, without a traceback.

    mount.fuse3 has a form of its own: `wbfs SOURCE MOUNTPOINT -o OPTIONS`.
    """
    # All of it goes with the process: to look for garbage in what was imported takes a while.
    atexit.register(gc.freeze)
    have_standard_streams()
    match sys.argv[1:]:
        case [source, _, "-o", _] if source not in commands.commands:
            main_of_helper()
    try:
        settle_inherited()
        allow_descriptors()
        settle_paths()
        commands()
    except WbfsError as error:
        echo(f"wbfs: {error}", err=True)
        sys.exit(exit_code_of(error))


def main_of_helper() -> NoReturn:
    """Run `mount.wbfs`."""
    sys.exit(run_helper(sys.argv[1:]))


if __name__ == "__main__":
    main()

"""`wbfs mount`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import click
from click.core import ParameterSource

from wbfs.cli.given.options import (
    PORT,
    AnyPath,
    Seconds,
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
from wbfs.cli.words.logs import default_log_file, show_warnings, start_logging
from wbfs.model.locks import Locked
from wbfs.model.settings import ALIAS_TTL_S, METRICS_ADDRESS, MountSettings

START_MARGIN_S = 30.0
START_QUESTIONS = 6
"""Questions to the server before a mount answers: who we are, and what the SOURCE's parts are.

A daemon in the background is waited for as long as they may take; it gives up earlier itself, and
says why."""


# The last one is the kernel's word for nobody at all.
_NUMBER = click.IntRange(min=0, max=(1 << 32) - 2)


class _Octal(click.ParamType[int]):
    name = "octal"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read permission bits as chmod does."""
        if isinstance(value, int):
            return value
        if not re.fullmatch("0*[0-7]{1,3}", value):
            self.fail(f"{value!r} is no octal number up to 777, as in 022", param, ctx)
        return int(value, 8)


class _MetricsPort(click.Option):
    """Not what Kubernetes calls so: the address of a service whose name is wbfs-metrics."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the variable's value, None where it is none or no port at all."""
        value = super().resolve_envvar_value(ctx)
        return None if value is not None and "://" in value else value


@click.command(
    short_help="Mount artifacts on an empty directory.",
    context_settings={"auto_envvar_prefix": "WBFS"},
)
@click.argument("source_and_mountpoint", nargs=-1, metavar="[SOURCE] MOUNTPOINT")
@click.option("-f", "--foreground", is_flag=True, help="Stay in front and log to the terminal.")
@cache_dir_option("Where what was read is kept; mounts may share it.")
@cache_size_option
@min_free_option
@click.option(
    "--alias-ttl",
    type=Seconds(min=0),
    default=ALIAS_TTL_S,
    show_default=True,
    metavar="SECONDS",
    help="How long an alias, or a listing of names, is believed before the server is asked again.",
)
@click.option(
    "--run",
    envvar="WBFS_RUN",
    default="",
    metavar="auto|[[ENTITY/]PROJECT/]RUN",
    show_default="WBFS_RUN, or none",
    help="Record what is opened as an input of each reader's own W&B run (auto), or of this one;"
    " see wbfs help runs.",
)
@click.option("--pin", is_flag=True, help="Resolve each alias once: it never moves in this mount.")
@lock_option
@as_of_option
@click.option(
    "--path-prefix",
    default="",
    metavar="PREFIX",
    help="Show only files whose path in the artifact starts with PREFIX, as path_prefix does in the"
    " SDK: images/b shows images/bikes/1.png, and /images nothing.",
)
@click.option(
    "--verify",
    type=click.Choice(["complete", "always"]),
    show_default="complete, but always for what comes by a gateway",
    help="When a large file's digest is checked: once it is complete, or always before a byte of it"
    " is served, which is after all of it was fetched.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="Ask nobody for anything: show what was looked up and read before with this cache.",
)
@manifest_limit_option
@blob_gateway_option
@timeout_option
@click.option(
    "--uid",
    type=_NUMBER,
    default=os.getuid,
    show_default="you",
    help="Owner of all files, by number.",
)
@click.option(
    "--gid",
    type=_NUMBER,
    default=os.getgid,
    show_default="yours",
    help="Group of all files, by number.",
)
@click.option(
    "--umask",
    type=_Octal(),
    default="000",
    show_default=True,
    help="Permission bits that files (0444) and directories (0555) shall not have.",
)
@click.option(
    "--allow-other",
    is_flag=True,
    help="Let other users, and containers, read it too. References then lead neither to loopback"
    " and private addresses nor to files of this machine, unless the next two options say so.",
)
@click.option(
    "--allow-private-references",
    is_flag=True,
    help="With --allow-other: read references to http(s) URLs at loopback and private addresses.",
)
@click.option(
    "--allow-file-references",
    is_flag=True,
    help="With --allow-other: read file:// references, as the user who mounts.",
)
@click.option("--make-dir", is_flag=True, help="Make MOUNTPOINT where it isn't there.")
@click.option(
    "--fd-socket",
    type=AnyPath(),
    metavar="PATH",
    help="Instead of a MOUNTPOINT: the socket over which who mounts passes its open /dev/fuse. With"
    " MOUNTPOINT /dev/fd/N it is open already.",
)
@click.option(
    "--token-file",
    type=AnyPath(),
    metavar="FILE",
    show_default="wandb-api-key in systemd's credentials directory",
    help="A file with the API key, read again when the server takes it no more.",
)
@click.option(
    "--log-file",
    type=AnyPath(),
    metavar="FILE",
    show_default="one a mountpoint, below ~/.local/state/wbfs",
    help="Where the daemon in the background logs.",
)
@click.option(
    "--metrics-port",
    cls=_MetricsPort,
    type=PORT,
    metavar="PORT",
    help="Tell metrics to Prometheus at this port, or at a free one for 0: the log says which.",
)
@click.option(
    "--metrics-address",
    show_default=METRICS_ADDRESS,
    metavar="ADDRESS",
    help="Where --metrics-port listens; others than this machine can ask at 0.0.0.0.",
)
@click.option("--debug", is_flag=True, help="Log more.")
def mount(
    source_and_mountpoint: tuple[str, ...],
    foreground: bool,
    cache_dir: Path,
    cache_size: int | None,
    min_free: int,
    alias_ttl: float,
    run: str,
    pin: bool,
    locks: tuple[Locked, ...],
    as_of: datetime | None,
    offline: bool,
    path_prefix: str,
    verify: str | None,
    manifest_limit: int,
    blob_gateway: str,
    timeout: float,
    uid: int,
    gid: int,
    umask: int,
    allow_other: bool,
    allow_private_references: bool,
    allow_file_references: bool,
    make_dir: bool,
    fd_socket: Path | None,
    token_file: Path | None,
    log_file: Path | None,
    metrics_port: int | None,
    metrics_address: str | None,
    debug: bool,
) -> None:
    """Mount artifacts on MOUNTPOINT, an empty directory, and return once they can be read.

    SOURCE narrows what is shown; without it, it is everything that you may see, as
    entity/project/artifact/alias/... It may be the address of an artifact's page, too. Parts left
    out in front of artifact:alias come from your W&B settings. Server and key are found as the
    wandb SDK finds them: WANDB_BASE_URL, WANDB_API_KEY, netrc (wandb login) and settings files.

    All of it can be said by environment variables instead: WBFS_SOURCE, WBFS_MOUNTPOINT, and for
    each option its name, as in WBFS_CACHE_SIZE for --cache-size.

    \b
    Examples:
      wbfs mount ~/artifacts
      wbfs mount my-team/my-project ~/project
      wbfs mount my-team/my-project/bike-dataset:v3 /data/bikes
      wbfs mount bike-dataset:latest/images /data/images
      wbfs mount --pin --alias-ttl 10 my-team /mnt/team
      wbfs mount --run auto ~/artifacts
    """
    # Imported late: `wbfs --help` needs none of it.
    from wbfs.cli.given.sources import source_of
    from wbfs.daemon.background import run_in_background
    from wbfs.daemon.mount import run_mount
    from wbfs.daemon.mounts.mountpoint import refuse_inside
    from wbfs.daemon.mounts.passed import descriptor_of, receive, take
    from wbfs.daemon.mounts.table import resolve
    from wbfs.daemon.supervisor import Supervisor

    said_by = click.get_current_context().get_parameter_source("metrics_address")
    if said_by is ParameterSource.COMMANDLINE and metrics_port is None:
        raise click.UsageError(
            "--metrics-address says where --metrics-port listens: give that, too, or leave it out"
        )
    source, mountpoint = _source_and_mountpoint(source_and_mountpoint, fd_socket)
    if token_file is not None:
        # Where it is looked for, as all that logs in.
        os.environ["WBFS_TOKEN_FILE"] = str(token_file)
    descriptor = receive(fd_socket) if fd_socket else descriptor_of(mountpoint)
    if descriptor is None:
        path = resolve(AnyPath().convert(mountpoint, None, None))
    else:
        descriptor = take(descriptor)
        path = Path(f"/dev/fd/{descriptor}")
        # Whoever has mounted may have let in everybody.
        allow_other = True
    # Where the first process goes into the background, its container ends.
    foreground = foreground or os.getpid() == 1
    if not foreground and log_file is None:
        log_file = default_log_file(str(path))
    settings = MountSettings(
        source=source_of(source) if source else "",
        path_prefix=path_prefix,
        mountpoint=path,
        cache_dir=cache_dir,
        sdk_cache_dir=sdk_cache_dir(),
        cache_size=cache_size,
        min_free=min_free,
        log_file=log_file,
        alias_ttl_s=alias_ttl,
        timeout_s=timeout,
        manifest_limit=manifest_limit,
        blob_gateway=blob_gateway,
        pin=pin,
        locks=locks,
        as_of=as_of,
        offline=offline,
        verify_always=verify == "always",
        trust_gateway=verify == "complete",
        private_references=allow_private_references or not allow_other,
        file_references=allow_file_references or not allow_other,
        uid=uid,
        gid=gid,
        umask=umask,
        allow_other=allow_other,
        make_dir=make_dir,
        descriptor=descriptor,
        metrics_port=metrics_port,
        metrics_address=metrics_address or METRICS_ADDRESS,
        run=run,
    )
    if settings.log_file is not None:
        refuse_inside(settings.log_file, path, "--log-file")
    start_logging(settings.log_file, debug=debug)
    if foreground:
        run_mount(settings, Supervisor(os.environ))
    else:
        assert settings.log_file is not None
        end_warnings = show_warnings()

        def serve(on_ready: Callable[[], None]) -> None:
            def detach() -> None:
                end_warnings()
                on_ready()

            # What the environment says of a supervisor is about somebody else.
            run_mount(settings, Supervisor({}, detach))

        run_in_background(
            serve,
            what="the mount",
            log_file=settings.log_file,
            timeout_s=START_QUESTIONS * timeout + START_MARGIN_S,
        )


def _source_and_mountpoint(words: tuple[str, ...], fd_socket: Path | None) -> tuple[str, str]:
    """Return what the words say, and the environment where they don't; empty where nothing does."""
    if len(words) > (1 if fd_socket else 2):
        place = "no MOUNTPOINT beside --fd-socket" if fd_socket else "one MOUNTPOINT"
        raise click.UsageError(f"give {place}, and at most one SOURCE")
    names = ["SOURCE", *([] if fd_socket else ["MOUNTPOINT"])]
    said = {name: os.environ.get(f"WBFS_{name}", "") for name in names}
    # The last word is the last of them.
    said |= dict(zip(reversed(names), reversed(words), strict=False))
    if not fd_socket and not said["MOUNTPOINT"]:
        raise click.UsageError("Missing argument '[SOURCE] MOUNTPOINT'.")
    return said["SOURCE"], said.get("MOUNTPOINT", "")

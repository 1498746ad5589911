"""`wbfs devserver`."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import click

from wbfs.cli.given.options import PORT, AnyPath, Seconds
from wbfs.cli.words.echo import echo
from wbfs.model.errors import UsageError


@click.command()
@click.option(
    "--data-dir",
    required=True,
    type=AnyPath(),
    help="Where everything that is logged is kept; made where it isn't there.",
)
@click.option(
    "--port", type=PORT, default=8080, show_default=True, help="The API's; 0 is any free."
)
@click.option("--file-port", type=PORT, default=0, help="The files' own port; 0 is any free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--user", default="admin", show_default=True, help="Name of the first user.")
@click.option(
    "--url-lifetime",
    type=Seconds(min=0),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a signed URL is good for.",
)
@click.option(
    "--max-page-size",
    type=click.IntRange(min=1, max=1_000_000),
    default=5000,
    show_default=True,
    help="Rows that one page of a listing has at most.",
)
@click.option(
    "--storage-layout",
    type=click.Choice(["V1", "V2"]),
    default="V2",
    show_default=True,
    help="How files of new artifacts are laid out.",
)
@click.option(
    "--xxh128/--md5", default=True, show_default=True, help="Digests that clients may log with."
)
@click.option(
    "--tls", is_flag=True, help="Serve https, by a certificate made in the data directory."
)
def devserver(
    data_dir: Path,
    port: int,
    file_port: int,
    host: str,
    user: str,
    url_lifetime: float,
    max_page_size: int,
    storage_layout: str,
    xxh128: bool,
    tls: bool,
) -> None:
    """Run a stand-in for the W&B server, for demos and tests.

    The wandb SDK can log in to it, log artifacts, use and download them; what it is given is kept
    in the data directory. It is no place for data that matters.

    \b
    Example:
      wbfs devserver --data-dir ~/wandb-server --port 8080
    and in another terminal:
      export WANDB_BASE_URL=http://127.0.0.1:8080
      export WANDB_API_KEY=$(cat ~/wandb-server/api-key)
      wandb artifact put --name my-project/my-data --type dataset ./data
    """
    # Imported late: the other commands need none of it.
    import asyncio

    from wbfs.daemon.ending import heeded_signals

    try:
        from wbfs.devserver.app import DevServer, ServerSettings
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the stand-in server needs {error.name}, which is not installed: run"
            " pip install 'wbfs[devserver]'"
        ) from error

    settings = ServerSettings(
        data_dir=data_dir,
        host=host,
        port=port,
        file_port=file_port,
        user=user,
        url_lifetime_s=url_lifetime,
        max_page_size=max_page_size,
        storage_layout=storage_layout,
        xxh128=xxh128,
        tls=tls,
    )
    try:
        server = DevServer(settings)
    except OSError as error:
        raise UsageError(
            f"can't serve on {host}:{port} from {data_dir}: {error.strerror}"
        ) from error
    echo(f"The stand-in server keeps its data in {data_dir}. To use it as {user!r}:")
    echo()
    echo(f"  export WANDB_BASE_URL={server.addresses.base_url}")
    key_file = shlex.quote(str(server.api_key_file))
    echo(f"  export WANDB_API_KEY=$(cat {key_file})")
    if server.ca_file is not None:
        # The SDK's Python reads one, its Go the other.
        ca_file = shlex.quote(str(server.ca_file.absolute()))
        echo(f"  export REQUESTS_CA_BUNDLE={ca_file} SSL_CERT_FILE={ca_file}")
    echo()
    echo("Ctrl-C ends it.")
    if signal.SIGHUP in heeded_signals():
        # What serves heeds SIGTERM only.
        signal.signal(signal.SIGHUP, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    asyncio.run(server.run())


if __name__ == "__main__":
    devserver()

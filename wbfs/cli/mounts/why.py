"""`wbfs why`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from wbfs.cli.given.options import Seconds
from wbfs.cli.given.places import sdk_cache_dir
from wbfs.cli.words.echo import echo
from wbfs.cli.words.sizes import show_size
from wbfs.model.errors import UsageError

if TYPE_CHECKING:
    from wbfs.daemon.mounts.looking.closely import Known
    from wbfs.store.bounds.inventory import Held

SHOWN_ERRORS = 3


@click.command(short_help="Show what a file of a mount is, and why it is or isn't here.")
@click.argument("path")
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the mount may take to say what the path is.",
)
def why(path: str, timeout_s: float) -> None:
    """Show of which version a path below a mount is, and whether its bytes are here: in whole or in
    part, where from, how long its last fetch took, and what failed.

    \b
    Example:
      wbfs why ~/artifacts/my-team/my-project/bike-dataset/latest/images/1.png
    """
    from wbfs.daemon.mounts.looking.apart import run_apart
    from wbfs.daemon.mounts.looking.closely import look_closely

    known = run_apart(lambda: look_closely(path), timeout_s=timeout_s, doing=f"tell what {path} is")
    if known is None:
        raise UsageError(f"{path} is not below a mount of wbfs, or isn't there: see wbfs status")
    for what, text in _rows(known):
        echo(f"{what:<10} {text}")


def _rows(known: Known) -> Iterator[tuple[str, str]]:
    """Yield what is told, and the text."""
    from wbfs.store.bounds.inventory import held

    mounted, attributes = known.mounted, known.attributes
    aliases = f", {attributes['aliases']}" if "aliases" in attributes else ""
    yield "version", f"{mounted.version} ({attributes.get('type', 'artifact')}{aliases})"
    if known.is_folder:
        yield "folder", mounted.path or "all of the version"
        return
    yield "file", mounted.path
    for name in ("digest", "uri"):
        if name in attributes:
            yield {"uri": "reference"}.get(name, name), attributes[name]
    if "size" in attributes:
        yield "size", show_size(int(attributes["size"]))
    found = held(
        mounted.cache.cache_dir,
        sdk_cache_dir(),
        urlsplit(mounted.cache.server).netloc,
        mounted.artifact_id,
        mounted.path,
    )
    if found is not None:
        yield "here", _where(found)
        if not found.is_sealed:
            yield "from", _source(known, found)
    if (fetch := known.fetch) is not None:
        text = f"for {fetch['why']}, {show_size(fetch['bytes'] or fetch['size'] or 0)} in"
        text += f" {fetch['seconds']:.3g} s until {fetch['at']}"
        yield "last fetch", f"{text}: {fetch['error']}" if fetch["error"] else text
    for error in known.errors[-SHOWN_ERRORS:]:
        yield "failed", f"{error.get('time')} {error.get('errno')}: {error.get('cause')}"


def _where(found: Held) -> str:
    if found.is_sealed:
        return f"whole and checked, {found.path}"
    if found.partial_bytes:
        return f"in part, {show_size(found.partial_bytes)}"
    return "no"


def _source(known: Known, found: Held) -> str:
    reference = found.entry.reference
    if found.is_with_sdk:
        return "the wandb SDK's cache, once its digest was checked"
    if known.mounted.cache.offline:
        return "nowhere: it is mounted with --offline"
    if reference is not None:
        return reference.uri
    return f"{known.mounted.cache.server}, by a signed URL"

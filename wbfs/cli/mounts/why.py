"""`wbfs why`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
    from wbfs.store.bounds.held import Held, Holdings

SHOWN_ERRORS = 3
SHOWN_SOURCES = 5
LOOKED_AT_TOGETHER = 256
"""Files of a folder that are counted before it is looked at the clock."""
COUNTING_SHARE = 0.8
"""The share of the time after which no more are counted."""


@click.command(short_help="Show what a file of a mount is, and why it is or isn't here.")
@click.argument("path")
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the mount may take to say what the path is, and a folder's files to be counted.",
)
def why(path: str, timeout_s: float) -> None:
    """Show of which version a path below a mount is, and whether its bytes are here: in whole or in
    part, from where they would come, how long the last fetch took, and what failed. Of a folder it
    is how many of all files below it.

    \b
    Examples:
      wbfs why ~/artifacts/my-team/my-project/bike-dataset/latest/images/1.png
      wbfs why ~/artifacts/my-team/my-project/bike-dataset/latest
    """
    from wbfs.daemon.mounts.looking.apart import run_apart

    until_s = time.monotonic() + COUNTING_SHARE * timeout_s
    # Neither the mount nor the cache's disk is sure to answer.
    rows = run_apart(
        lambda: _found(path, until_s), timeout_s=timeout_s, doing=f"tell what {path} is"
    )
    if rows is None:
        raise UsageError(f"{path} is not below a mount of wbfs, or isn't there: see wbfs status")
    for what, text in rows:
        echo(f"{what:<10} {text}")


def _found(path: str, until_s: float) -> list[tuple[str, str]] | None:
    """Return all that is told of a path; None where it is on no mount of wbfs."""
    from wbfs.daemon.mounts.looking.closely import look_closely

    known = look_closely(path)
    return None if known is None else list(_rows(known, until_s))


def _rows(known: Known, until_s: float) -> Iterator[tuple[str, str]]:
    """Yield what is told, and the text."""
    from wbfs.store.bounds.held import holdings

    mounted, attributes = known.mounted, known.attributes
    aliases = f", {attributes['aliases']}" if "aliases" in attributes else ""
    yield "version", f"{mounted.version} ({attributes.get('type', 'artifact')}{aliases})"
    cache = mounted.cache
    server = urlsplit(cache.server).netloc
    held = holdings(cache.cache_dir, sdk_cache_dir(), server, mounted.artifact_id)
    try:
        rows = _of_folder if known.is_folder else _of_file
        yield from rows(known, held, until_s)
    finally:
        if held is not None:
            held.close()
    for error in known.errors[-SHOWN_ERRORS:]:
        yield "failed", f"{error.get('time')} {error.get('errno')}: {error.get('cause')}"


def _of_file(known: Known, held: Holdings | None, until_s: float) -> Iterator[tuple[str, str]]:
    yield "file", known.mounted.path
    attributes = known.attributes
    for name in ("digest", "uri"):
        if name in attributes:
            yield {"uri": "reference"}.get(name, name), attributes[name]
    if "size" in attributes:
        yield "size", show_size(int(attributes["size"]))
    found = held.of_file(known.mounted.path) if held else None
    if found is not None:
        yield "here", _where(found)
        if not found.is_sealed:
            yield "from", _source(known, found)
    if (fetch := known.fetch) is not None:
        text = f"for {fetch['why']}, {show_size(fetch['bytes'] or fetch['size'] or 0)} in"
        text += f" {fetch['seconds']:.3g} s until {fetch['at']}"
        if fetch.get("by_gateway"):
            text += ", by the gateway"
        yield "last fetch", f"{text}: {fetch['error']}" if fetch["error"] else text


def _of_folder(known: Known, held: Holdings | None, until_s: float) -> Iterator[tuple[str, str]]:
    mounted = known.mounted
    yield "folder", mounted.path or "all of the version"
    if held is None:
        yield "here", "can't be told: the list of its files is not in the cache at the moment"
        return
    all_of_it, sealed, in_part, absent = _Count(), _Count(), _Count(), _Count()
    sources: dict[str, _Count] = {}
    partial_bytes = 0
    for number, found in enumerate(held.below(mounted.path)):
        if number % LOOKED_AT_TOGETHER == 0 and time.monotonic() > until_s:
            yield "counted", f"the first {all_of_it} only: a longer --timeout counts more"
            break
        entry = found.entry
        if not entry.path.startswith(mounted.path_prefix):
            continue
        all_of_it.add(entry.size)
        (sealed if found.is_sealed else in_part if found.partial_bytes else absent).add(entry.size)
        if not found.is_sealed:
            partial_bytes += found.partial_bytes
            source = _source(known, found, _origin)
            sources.setdefault(source, _Count()).add(entry.size)
    else:
        yield "in all", str(all_of_it)
    yield "here", f"{sealed} whole and checked"
    if in_part.files:
        yield "in part", f"{in_part}, of which {show_size(partial_bytes)} are here"
    if absent.files:
        yield "not here", str(absent)
    most = sorted(sources.items(), key=lambda one: one[1].files, reverse=True)
    for source, count in most[:SHOWN_SOURCES]:
        yield "from", f"{source}: {count}"
    if len(most) > SHOWN_SOURCES:
        yield "", f"and from {len(most) - SHOWN_SOURCES:,} other places"


class _Count:
    """How many files, and their bytes as far as they are known."""

    def __init__(self) -> None:
        self.files = self._bytes = self._unsized = 0

    def add(self, size: int | None) -> None:
        self.files += 1
        self._bytes += size or 0
        self._unsized += size is None

    def __str__(self) -> str:
        text = f"{self.files:,} file{'' if self.files == 1 else 's'}"
        if self.files and self._unsized == self.files:
            return f"{text} of unknown size"
        text += f", {show_size(self._bytes)}"
        return f"{text} without {self._unsized:,} of unknown size" if self._unsized else text


def _where(found: Held) -> str:
    if found.is_sealed:
        return f"whole and checked, {found.path}"
    if found.partial_bytes:
        return f"in part, {show_size(found.partial_bytes)}"
    return "no"


def _source(known: Known, found: Held, shown: Callable[[str], str] = str) -> str:
    """Return from where a file would come; a reference's URI is `shown`."""
    if found.is_with_sdk:
        return "the wandb SDK's cache, once its digest was checked"
    if known.mounted.cache.offline:
        return "nowhere: it is mounted with --offline"
    reference = found.entry.reference
    if reference is not None:
        return shown(reference.uri)
    gateway = known.mounted.cache.blob_gateway
    through = f" through the gateway {gateway}" if gateway else ""
    return f"{known.mounted.cache.server}, by a signed URL{through}"


def _origin(uri: str) -> str:
    """Return whose a reference is: a bucket's or a host's."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.partition('/')[0]}"

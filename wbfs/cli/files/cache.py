"""`wbfs cache`: what the local cache has, and making it smaller."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from wbfs.cli.given.options import cache_dir_option
from wbfs.cli.given.places import sdk_cache_dir
from wbfs.cli.words.echo import echo, echo_json
from wbfs.cli.words.sizes import Size, show_size
from wbfs.model.text import plain


@click.group()
@cache_dir_option("The cache to look at.")
@click.pass_context
def cache(context: click.Context, cache_dir: Path) -> None:
    """Look at the local cache, check it, make it smaller.

    All of it is safe while mounts use the cache: what is open stays, and what is removed is fetched
    again when it is read.

    \b
    Examples:
      wbfs cache info
      wbfs cache list
      wbfs cache prune --to 20GB
      wbfs cache verify
    """
    from wbfs.store.folder import check_cache

    check_cache(cache_dir)
    context.obj = cache_dir


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cache.command()
@as_json
@click.pass_obj
def info(cache_dir: Path, as_json: bool) -> None:
    """Show how large the cache is."""
    from wbfs.store.bounds.inventory import summary

    found = summary(cache_dir)
    if as_json:
        echo_json({"dir": str(cache_dir), **asdict(found)})
        return
    echo(f"cache      {cache_dir}")
    echo(f"blobs      {found.blobs} files, {show_size(found.blob_bytes)}")
    echo(f"manifests  {found.manifests} versions, {show_size(found.manifest_bytes)}")
    echo(f"partial    {found.partial} files, {show_size(found.partial_bytes)}")
    echo(f"names      {show_size(found.catalog_bytes)}")
    free = found.disk_free_bytes
    echo(f"disk       {'it tells no size' if free is None else f'{show_size(free)} free'}")


@cache.command(name="list", short_help="Show the versions, and how much of each is here.")
@as_json
@click.pass_obj
def list_(cache_dir: Path, as_json: bool) -> None:
    """Show the versions whose files were listed, and how much of each is here."""
    from wbfs.store.bounds.inventory import cached_versions

    versions = sorted(cached_versions(cache_dir), key=lambda version: version.path)
    if as_json:
        echo_json([asdict(version) for version in versions])
        return
    rows = [
        (
            plain(version.path),
            f"{version.cached_files}/{version.files}",
            f"{show_size(version.cached_bytes)} of {show_size(version.bytes)}",
        )
        for version in versions
    ]
    table = [("VERSION", "FILES", "SIZE"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    for name, files, size in table:
        echo(f"{name:<{widths[0]}}  {files:>{widths[1]}}  {size}")


@cache.command()
@click.option("--to", type=Size(), required=True, help="How large the cache may be afterwards.")
@as_json
@click.pass_obj
def prune(cache_dir: Path, to: int, as_json: bool) -> None:
    """Remove what was used least recently."""
    _prune(cache_dir, to, as_json=as_json)


@cache.command()
@as_json
@click.pass_obj
def clear(cache_dir: Path, as_json: bool) -> None:
    """Remove everything that no mount has open."""
    _prune(cache_dir, 0, as_json=as_json)


def _prune(cache_dir: Path, to: int, *, as_json: bool) -> None:
    from wbfs.store.bounds.eviction import Bounds
    from wbfs.store.bounds.room import Room
    from wbfs.store.content.sdk_cache import SdkCache

    bounds = Bounds(limit=to, min_free=None)
    pruned = Room(cache_dir, SdkCache(sdk_cache_dir()), bounds).prune()
    if as_json:
        echo_json(asdict(pruned))
        return
    echo(
        f"removed {pruned.removed_files} files, {show_size(pruned.removed)};"
        f" {show_size(pruned.kept)} are left"
    )


@cache.command(short_help="Read every cached file, and remove the damaged ones.")
@as_json
@click.pass_obj
@click.pass_context
def verify(context: click.Context, cache_dir: Path, as_json: bool) -> None:
    """Read every cached file and remove those that are not what their digest says.

    The exit code is 1 if there were any.
    """
    from wbfs.store.bounds.inventory import verify as verify_all

    verified = verify_all(cache_dir)
    if as_json:
        echo_json(asdict(verified))
    else:
        echo(f"{verified.good} files are good, {show_size(verified.good_bytes)}")
        if verified.unknown:
            echo(f"{verified.unknown} files, of references, have no digest to check")
        for name in verified.damaged:
            echo(f"damaged, and removed: {name}")
    if verified.damaged:
        context.exit(1)

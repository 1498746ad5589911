"""Options that several commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import platformdirs

from wbfs.cli.given.places import user_path
from wbfs.cli.versions.lock_files import read_locks
from wbfs.cli.words.sizes import Size
from wbfs.model.locks import Locked
from wbfs.model.settings import MANIFEST_LIMIT_BYTES, MIN_FREE_BYTES, TIMEOUT_S

F = TypeVar("F", bound=Callable[..., Any])

LONGEST_S = 3 * 24 * 3600
"""More than anybody waits, or wants an alias not to move: that is --pin. Several times as long is
within what poll(2) waits, which counts milliseconds in 31 bits."""
PORT = click.IntRange(min=0, max=65535)


class Seconds(click.FloatRange):
    """A number of seconds that can be waited for: no `nan`, which is beyond no bound, nor `inf`."""

    def __init__(self, min: float) -> None:
        """Take none below `min`."""
        super().__init__(min=min, max=LONGEST_S)

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class Moment(click.ParamType[datetime]):
    """A moment of the past, as ISO 8601 writes it, with its zone."""

    name = "time"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the moment, in UTC."""
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
            if moment.tzinfo is None:
                self.fail(f"{value!r} has no zone: put Z behind it, or +01:00", param, ctx)
            moment = moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time as 2026-11-01T12:00Z is one", param, ctx)
        if moment > datetime.now(UTC):
            self.fail(f"{value!r} is not over yet", param, ctx)
        return moment


class AnyPath(click.ParamType[Path]):
    """A path, made absolute. Not click's own type, which looks at what is there: that may hang."""

    name = "path"

    def convert(
        self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return the path; `~` is the home, also where no shell has said so."""
        if not str(value):
            self.fail("an empty text is no path", param, ctx)
        return user_path(str(value))


def cache_dir_option(purpose: str) -> Callable[[F], F]:
    """Return the option for the cache's directory; `purpose` says what it is for."""
    return click.option(
        "--cache-dir",
        envvar="WBFS_CACHE_DIR",
        type=AnyPath(),
        metavar="DIRECTORY",
        default=lambda: platformdirs.user_cache_path("wbfs"),
        show_default="WBFS_CACHE_DIR, or ~/.cache/wbfs",
        help=purpose,
    )


cache_size_option = click.option(
    "--cache-size",
    type=Size(),
    show_default="no limit",
    help="How large the cache may grow; what was used least recently goes first.",
)
min_free_option = click.option(
    "--min-free",
    type=Size(),
    default=MIN_FREE_BYTES,
    show_default="1GiB",
    help="What the cache leaves free on its disk.",
)
manifest_limit_option = click.option(
    "--manifest-limit",
    envvar="WBFS_MANIFEST_LIMIT",
    # Below it there is hardly a version that has a file: who says 0 means something else.
    type=Size(min=1000),
    default=MANIFEST_LIMIT_BYTES,
    show_default="WBFS_MANIFEST_LIMIT, or 4GiB",
    help="How large the list of a version's files may be that is taken from the server.",
)


class GatewayUrl(click.ParamType[str]):
    """Where a gateway is: http(s)://HOST..., or dragonfly+http://HOST."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the URL."""
        try:
            parts = urlsplit(value)
            is_one = parts.scheme in ("http", "https", "dragonfly+http") and bool(parts.hostname)
            is_one = is_one and parts.port != 0 and not (parts.query or parts.fragment)
        except ValueError:
            is_one = False
        if not is_one or "@" in value:
            # Not shown: a password may be anywhere in it.
            self.fail(
                "this is no gateway's URL, such as http://cache.example:9912 or"
                " dragonfly+http://127.0.0.1:4001; it has no user and no password",
                param,
                ctx,
            )
        return value


blob_gateway_option = click.option(
    "--blob-gateway",
    envvar="WBFS_BLOB_GATEWAY",
    type=GatewayUrl(),
    callback=lambda _context, _parameter, url: url or "",
    metavar="URL",
    show_default="WBFS_BLOB_GATEWAY, or none",
    help="A cache that your machines share, where W&B's own files are asked for first, by their"
    " digest; see wbfs help fleet.",
)
timeout_option = click.option(
    "--timeout",
    type=Seconds(min=1),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long an operation may wait for the server without a byte coming, with all retries. In"
    " all a file may take this, and a second more for each 64 KiB.",
)


def _read_lock(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> tuple[Locked, ...]:
    return () if path is None else tuple(read_locks(path).values())


lock_option = click.option(
    "--lock",
    "locks",
    envvar="WBFS_LOCK",
    type=AnyPath(),
    callback=_read_lock,
    metavar="FILE",
    help="Take each alias that is in this file to be the version that it names there; wbfs lock"
    " writes one.",
)
as_of_option = click.option(
    "--as-of",
    envvar="WBFS_AS_OF",
    type=Moment(),
    metavar="TIME",
    help="Take artifacts to have the versions, and the latest one, that they had at this moment, as"
    " 2026-11-01T12:00Z; see wbfs help runs.",
)

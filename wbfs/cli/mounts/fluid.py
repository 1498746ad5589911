"""`wbfs fluid`: what Fluid's ThinRuntime runs in the container that mounts on a node.

Fluid writes down as JSON what that is to mount: of a Dataset its `mounts`, each with a `mountPoint`
and `options`; the `targetPath` to mount at; the ThinRuntime's `runtimeOptions`. A secret among a
Dataset's options (encryptOptions) is the path of its file. The profile's options are in the
variable MOUNT_OPTIONS alone (pkg/ddc/thin/transform_config.go and transform_fuse.go of Fluid).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from wbfs.cli.given.options import AnyPath
from wbfs.cli.mounts.mount import mount
from wbfs.cli.mounts.mount_options import asked_for, is_generic, option_words, options_of
from wbfs.model.errors import UsageError

CONFIGS = (Path("/etc/fluid/config/config.json"), Path("/etc/fluid/config.json"))
"""Where Fluid writes it, since its version 1.1 and before."""
SCHEME = "wandb://"
BASE_URL = "base-url"
"""The one option that `wbfs mount` has not got: the server has a variable."""
TOKEN_FILE = "token-file"


@click.command(short_help="Mount what Fluid says, in its ThinRuntime's container.")
@click.option(
    "--config",
    type=AnyPath(),
    metavar="FILE",
    show_default=" or ".join(map(str, CONFIGS)),
    help="What Fluid has written down for this container.",
)
def fluid(config: Path | None) -> None:
    """Mount in front what Fluid says, where it says, for everybody: a Dataset of one mount.

    Its mountPoint is wandb:// and a SOURCE of wbfs mount; what begins otherwise is a SOURCE as it
    is. Its options are those of wbfs mount, and base-url, which is the server; token-file, the API
    key's, belongs among its encryptOptions. A dead mount that is in the way is taken down first.
    The exit codes are those of wbfs mount. wbfs deploy fluid prints what Fluid needs.
    """
    path = config or next((one for one in CONFIGS if os.path.exists(one)), CONFIGS[0])
    source, target, options = _read(path)
    words: list[str] = []
    for name, value in options.items():
        if name == BASE_URL:
            os.environ["WANDB_BASE_URL"] = value
        elif not is_generic(name):
            words += _words(name, value)
    ours = ["--foreground", "--make-dir", "--allow-other"]
    with asked_for([*words, *ours, "--", *([source] if source else []), target]) as context:
        mount.invoke(context)


def _read(path: Path) -> tuple[str, str, dict[str, str]]:
    """Return what is to be mounted, where, and with which options. Raises UsageError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"can't read what Fluid says is to be mounted, {path}: {error.strerror}; wbfs fluid is"
            " for a container of its ThinRuntime: see wbfs deploy fluid"
        ) from None
    except ValueError as error:
        # Not what is in it, which may be secret.
        raise UsageError(f"what Fluid says is to be mounted, {path}, is no JSON: {error}") from None
    try:
        mounts, target = document.get("mounts") or [], document["targetPath"]
        if len(mounts) != 1:
            raise UsageError(
                f"the Dataset has {len(mounts)} mounts, and wbfs fluid makes one: have a Dataset"
                " for each, or one with a source above all of them"
            )
        options = _options(document.get("runtimeOptions"), mounts[0].get("options"))
        source = mounts[0]["mountPoint"]
        if not (isinstance(source, str) and isinstance(target, str) and target.startswith("/")):
            raise TypeError
        return source.removeprefix(SCHEME).strip("/"), target, options
    except (KeyError, AttributeError, TypeError):
        raise UsageError(
            f"{path} is not what Fluid writes: it needs a targetPath, and mounts with a mountPoint;"
            " options are texts"
        ) from None


def _options(*levels: dict[str, Any] | None) -> dict[str, str]:
    """Return all options; the nearest level's go before the profile's."""
    options = dict(options_of(os.environ.get("MOUNT_OPTIONS", "")))
    for level in levels:
        options |= {name: _text(value) for name, value in (level or {}).items()}
    return {name.replace("_", "-"): value or "" for name, value in options.items()}


def _text(value: object) -> str:
    """Return an option's value as Fluid has it, whatever JSON calls it. Raises TypeError."""
    if not isinstance(value, str | int | float | None):
        raise TypeError
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _words(name: str, value: str) -> Iterator[str]:
    """Yield an option as `wbfs mount` has it. Raises UsageError, without the value."""
    if name == TOKEN_FILE and not value.startswith("/"):
        raise UsageError(
            f"the option {name} must be the path of a file with the API key: put it among the"
            " encryptOptions, and have Fluid's controller without THIN_FUSE_CONFIG_STORAGE=secret"
        )
    if value == "false":
        return
    yield from option_words(name, None if value in ("", "true") else value, also=(BASE_URL,))

"""`wbfs mount` as others ask for it, who write options in ways of their own: mount(8), Fluid."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

import click

from wbfs.cli.mounts.mount import mount
from wbfs.model.errors import UsageError

# What mount(8) and mount.fuse3 deal with, or what holds for every mount of wbfs, or doesn't matter
# where nothing is written and nothing is a program or a device.
# fmt: off
_GENERIC = frozenset((
    "async", "atime", "auto", "default_permissions", "defaults", "dev", "diratime", "dirsync",
    "exec", "fsname", "group", "iversion", "lazytime", "loud", "mand", "noatime", "noauto",
    "nodev", "nodiratime", "noexec", "nofail", "noiversion", "nolazytime", "nomand", "norelatime",
    "nostrictatime", "nosuid", "nouser", "owner", "relatime", "ro", "rw", "silent", "strictatime",
    "subtype", "suid", "sync", "user", "users", "_netdev", "comment",
))
# fmt: on
_NOT_FOR_OTHERS = frozenset(("foreground", "fd_socket"))
"""Who asks decides himself whether it is waited for, and where it is mounted."""
_VARIABLES = ("WBFS_SOURCE", "WBFS_MOUNTPOINT", "WBFS_FOREGROUND", "WBFS_FD_SOCKET")


def options_of(*texts: str) -> Iterator[tuple[str, str | None]]:
    """Yield names and values; a value may be in double quotes, and have commas then."""
    for text in texts:
        for option in re.findall(r'(?:"[^"]*"|[^,])+', text):
            name, is_set, value = option.partition("=")
            yield name, value.replace('"', "") if is_set else None


def is_generic(name: str) -> bool:
    """Whether an option is one of all filesystems, which means nothing here."""
    return name in _GENERIC or name.startswith(("x-", "X-"))


def is_known(name: str) -> bool:
    """Whether there is an option of that name, with _ or - in it, for others to give."""
    return _spelling(name) in _known()


def option_words(name: str, value: str | None, *, also: Sequence[str] = ()) -> list[str]:
    """Return an option as `wbfs mount` has it; `also` are names that are dealt with elsewhere.

    Raises UsageError, without the value, which may be a secret in a wrong place.
    """
    word, known = _spelling(name), _known()
    if word not in known:
        names = [one[2:].replace("-", "_") for one in known if one.startswith("--")]
        there = f"{', '.join(names)}{', and ' if also else ''}{', '.join(also)}"
        raise UsageError(f"there is no option {name!r}: there are {there}")
    is_flag = known[word].is_flag
    if is_flag == (value is not None):
        how = "takes no value" if is_flag else f"needs a value, as in {name}=..."
        raise UsageError(f"the option {name} {how}")
    return [word] if value is None else [f"{word}={value}"]


def asked_for(words: Sequence[str]) -> click.Context:
    """Return what invokes `wbfs mount` with these words, whatever the environment says beside."""
    for name in _VARIABLES:
        os.environ.pop(name, None)
    return mount.make_context("mount", [*words])


def _spelling(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _known() -> dict[str, click.Option]:
    return {
        spelling: option
        for option in mount.params
        if isinstance(option, click.Option) and option.name not in _NOT_FOR_OTHERS
        for spelling in option.opts
    }

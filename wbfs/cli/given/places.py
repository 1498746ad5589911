"""Where files are that other programs have a say in: the environment's paths, settled once."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path

import platformdirs

from wbfs.model.errors import UsageError

_PATHS = (
    "NETRC",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "WBFS_CACHE_DIR",
    "WBFS_TOKEN_FILE",
    "WANDB_ARTIFACT_DIR",
    "WANDB_CACHE_DIR",
    "WANDB_CONFIG_DIR",
    "WANDB_DIR",
    "WANDB_IDENTITY_TOKEN_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSLKEYLOGFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_CA_BUNDLE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "BOTO_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_API_CERTIFICATE_CONFIG",
    "CLOUDSDK_CONFIG",
    "AZURE_CONFIG_DIR",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_CLIENT_CERTIFICATE_PATH",
)
_LISTS = ("PYTHONPATH", "SSL_CERT_DIR", "AWS_DATA_PATH")
"""Variables that hold several paths, with colons between."""
NO_HOME = "/"
"""The home of a user who has none, as containers have it."""


def settle_paths() -> None:
    """Have the environment's paths mean what they mean now, wherever a daemon goes later.

    Libraries, and programs that are started, read them when they need them. A `~` that no shell
    has replaced is the home too. Raises UsageError where the working directory is gone, and where
    a `~user` is nobody that this machine knows.
    """
    os.environ["HOME"] = os.environ.get("HOME") or _home_of_the_user()
    os.environ["HOME"] = str(_settled("HOME", os.environ["HOME"]))
    _do_without_home()
    for name in _PATHS:
        if path := os.environ.get(name):
            os.environ[name] = str(_settled(name, path))
    for name in _LISTS:
        if paths := os.environ.get(name):
            # An empty one means the working directory to some, and to others nothing.
            settled = (path and str(_absolute(name, path)) for path in paths.split(":"))
            os.environ[name] = ":".join(settled)


def user_path(text: str) -> Path:
    """Return the absolute path that a user means. Raises UsageError."""
    return _settled("the path", text)


def _home_of_the_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or NO_HOME
    except KeyError:
        # No user of the machine's, as in containers.
        return NO_HOME


def _do_without_home() -> None:
    """Have cache and state elsewhere where the home can't have them: a container's user's, say.

    That is where systemd says, or else below the directory of temporary files.
    """
    for name, systemds, usual, folder in (
        ("XDG_CACHE_HOME", "CACHE_DIRECTORY", ".cache", "cache"),
        ("XDG_STATE_HOME", "STATE_DIRECTORY", ".local/state", "state"),
    ):
        if os.environ.get(name) or _can_be_had(Path(os.environ["HOME"], usual)):
            continue
        place = os.environ.get(systemds, "").partition(":")[0]
        if not place and (own := _own_temporary()):
            place = str(own / folder)
        if place:
            os.environ[name] = place


def _can_be_had(folder: Path) -> bool:
    """Whether this user may write to a folder, or make it."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _own_temporary() -> Path | None:
    """Return a directory of temporary files that is this user's alone, None where there is none."""
    path = Path(os.environ.get("TMPDIR") or "/tmp", f"wbfs-{os.getuid()}")
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        # Anybody may have made it.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o22:
            return path
    return None


def _settled(name: str, text: str) -> Path:
    if os.path.expanduser(text).startswith("~"):
        raise UsageError(
            f"{name} {text!r}: there is no such home here; write the path out (./~ for a name that"
            " begins so)"
        )
    return _absolute(name, text)


def _absolute(name: str, text: str) -> Path:
    path = Path(os.path.expanduser(text))
    try:
        # Nothing is looked up: what is there may hang.
        return path.absolute()
    except FileNotFoundError:
        raise UsageError(
            f"{name} {text!r} is relative to the working directory, and that is gone: name it from"
            " the root on"
        ) from None


def sdk_cache_dir() -> Path:
    """Return the wandb SDK's cache directory, as the SDK finds it."""
    named = os.environ.get("WANDB_CACHE_DIR")
    folder = Path(named) if named else platformdirs.user_cache_path("wandb")
    return folder.absolute()

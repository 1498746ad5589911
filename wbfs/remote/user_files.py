"""The files in which users, and the wandb SDK for them, keep keys and settings. Blocking code.

As by the SDK, what can't be read is left out, with a warning: the environment may have it all.
"""

from __future__ import annotations

import configparser
import errno
import logging
import netrc
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)


def refuse_to_wait(path: Path | str) -> None:
    """Raise OSError for what is there and is no file, like a pipe: opening it might never end."""
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or os.path.samefile(path, os.devnull):
        return
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


class UserFiles:
    """Settings files and netrc, read anew each time: somebody may log in meanwhile."""

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        """Relative paths of the environment, and what is named nowhere, are of `directory`."""
        self._environ = environ
        self._directory = directory
        self._home = self.path_of("HOME") or Path(os.path.expanduser("~"))
        self._told: set[str] = set()

    def path_of(self, name: str) -> Path | None:
        """Return the absolute path that a variable holds, None where it is unset or empty."""
        path = self._environ.get(name)
        return self._directory / os.path.expanduser(path) if path else None

    def settings(self) -> dict[str, str]:
        """Return the settings files' values; those of the working directory win."""
        config = self.path_of("WANDB_CONFIG_DIR") or self._home / ".config" / "wandb"
        root = self.path_of("WANDB_DIR") or self._directory
        local = root / (".wandb" if os.path.isdir(root / ".wandb") else "wandb")
        values: dict[str, str] = {}
        for path in (config / "settings", local / "settings"):
            parser = configparser.ConfigParser(interpolation=None, default_section="no defaults")
            try:
                refuse_to_wait(path)
                parser.read_string(path.read_text())
                values.update(parser.items("default"))
            except (FileNotFoundError, NotADirectoryError, configparser.NoSectionError):
                continue
            except (configparser.Error, OSError, ValueError) as error:
                self._leave_out(f"the W&B settings file {path}", error)
        return values

    def netrc_key(self, hosts: Sequence[str]) -> str:
        """Return the password that netrc has for the first of the hosts, or the empty text."""
        named = self.path_of("NETRC")
        candidates = [named] if named else [self._home / ".netrc", self._home / "_netrc"]
        path = next((path for path in candidates if os.path.exists(path)), candidates[0])
        try:
            refuse_to_wait(path)
            known = netrc.netrc(path)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except (netrc.NetrcParseError, OSError, ValueError) as error:
            self._leave_out(f"the netrc file {path}", error)
            return ""
        found = (known.authenticators(host) for host in hosts)
        return next((entry[2] for entry in found if entry and entry[2]), "")

    def _leave_out(self, what: str, error: Exception) -> None:
        # Other errors' own texts quote the file, and a key may be in there.
        reason = error.strerror if isinstance(error, OSError) else "it is malformed"
        text = f"{what} is left out: {reason}; correct or remove it"
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)

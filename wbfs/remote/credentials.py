"""Server, key and defaults, found as the wandb SDK finds them: environment, netrc, settings files.

The W&B protocol's order for the key: `WANDB_API_KEY` or `WANDB_IDENTITY_TOKEN_FILE`, then netrc by
host and port, then the settings files where their server is the one in use. A file that holds
nothing but the key, `WBFS_TOKEN_FILE` or what systemd has in its credentials directory, is ours.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from wbfs.model.errors import AccessDenied, LoginRefused, UsageError
from wbfs.remote.user_files import UserFiles, refuse_to_wait

log = logging.getLogger(__name__)

DEFAULT_BASE_URL = "https://api.forge.coreweave.com"
_SAME_DEPLOYMENT = frozenset({"api.forge.coreweave.com", "api.wandb.ai"})
_APPS = ("wandb.ai", "www.wandb.ai", "app.wandb.ai", "forge.coreweave.com")
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")
_SHORTEST_KEY = 40
_KEY = re.compile(rf"[\w-]{{{_SHORTEST_KEY},}}")
_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_SYSTEMD_CREDENTIAL = "wandb-api-key"
_HOW_TO_LOG_IN = "run `wandb login`, set WANDB_API_KEY, or name a file with WBFS_TOKEN_FILE"


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that no log and no traceback shows."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who asks which server, and the user's defaults; empty texts where nothing is set.

    `read_key` returns the API key as it is now, so that one that was changed since is found;
    `identity_token_file` is set instead of a key for federated identities. `verify` tells
    whether W&B's certificates are checked.
    """

    base_url: str
    entity: str
    project: str
    username: str
    email: str
    read_key: Callable[[], Secret]
    identity_token_file: Path | None
    extra_headers: Mapping[str, str] = field(repr=False)
    proxies: Mapping[str, str] = field(repr=False)
    verify: bool

    def read_login(self) -> Secret:
        """Return what tells this login from others, as it is now: the key, or whom a token names.

        Raises AccessDenied where there is none.
        """
        if self.identity_token_file is not None:
            what = _identity(read_identity_token(self.identity_token_file))
        else:
            what = ["key", self.read_key().value]
        return Secret(json.dumps([*what, self.username, self.email]))


class NoKey(LoginRefused):
    """There is no API key anywhere."""


def load_credentials(
    environ: Mapping[str, str] = os.environ,
    directory: Path | None = None,
    *,
    key_is_needed: bool = True,
) -> Credentials:
    """Read the environment and the settings files; `directory` stands for the current one.

    That, and relative paths, mean what they mean now also when the key is read again, wherever the
    program is then. Raises NoKey where there is none and it is needed, AccessDenied for one that
    can't be one, UsageError for settings that make no sense.
    """
    files = UserFiles(environ, (directory or _working_directory()).absolute())
    settings = files.settings()
    named_url = environ.get("WANDB_BASE_URL") or settings.get("base_url", "")
    named_by = "WANDB_BASE_URL" if environ.get("WANDB_BASE_URL") else "the W&B settings' base_url"
    base_url = _normalize(named_url, named_by)
    if "@" in urlsplit(named_url).netloc:
        log.warning("user and password in %s are left out: W&B takes an API key only", named_by)
    token_file = files.path_of("WANDB_IDENTITY_TOKEN_FILE")
    key_file = files.path_of("WBFS_TOKEN_FILE")
    ways = {
        "WANDB_API_KEY": environ.get("WANDB_API_KEY"),
        "WANDB_IDENTITY_TOKEN_FILE": token_file,
        "WBFS_TOKEN_FILE": key_file,
    }
    if len(named := [name for name, value in ways.items() if value]) > 1:
        raise AccessDenied(
            f"both {named[0]} and {named[1]} are set: unset the one that is not meant"
        )
    if not named:
        key_file = _systemd_credential(files)

    def read_key() -> Secret:
        if key_file is not None:
            return _checked(_secret_in(key_file, "API key"), f"in {key_file}")
        return _find_key(environ, base_url, files, files.settings())

    if not token_file:
        try:
            read_key()
        except NoKey:
            if key_is_needed:
                raise

    def setting(name: str) -> str:
        return environ.get(f"WANDB_{name.upper()}") or settings.get(name, "")

    return Credentials(
        base_url=base_url,
        entity=setting("entity"),
        project=setting("project"),
        username=_header_text("WANDB_USERNAME", setting("username")),
        email=_header_text("WANDB_USER_EMAIL", environ.get("WANDB_USER_EMAIL", "")),
        read_key=read_key,
        identity_token_file=token_file,
        extra_headers=_extra_headers(environ),
        proxies=_proxies(environ, settings),
        verify=environ.get("WANDB_INSECURE_DISABLE_SSL", "").lower() not in ("1", "true", "yes"),
    )


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        # It was removed: no settings are in there.
        return Path("/")


def _normalize(base_url: str, named_by: str) -> str:
    """Return W&B's URL, always written in one way. Raises UsageError, with who named it."""
    url = (base_url or DEFAULT_BASE_URL).strip().rstrip("/")
    if url == "https://forge.coreweave.com/api/wandb":
        return DEFAULT_BASE_URL
    parts = _split(url, named_by)
    # What stands in front of an "@" is a secret, and goes nowhere.
    url = urlunsplit(parts)
    host = parts.hostname or ""
    if host == "forge.coreweave.com":
        raise UsageError(f"{url} is not W&B's API: it is {DEFAULT_BASE_URL}")
    is_public = host == "wandb.ai" or host.endswith(".wandb.ai")
    if is_public and ("api." not in host or parts.scheme == "http"):
        raise UsageError(f"{url} is not W&B's API: it is https://api.wandb.ai")
    return url


def is_same_server(named: str, base_url: str) -> bool:
    """Whether a program that was told `named` as W&B's URL asks the server at `base_url`."""
    try:
        hosts = {urlsplit(url).netloc for url in (_normalize(named, "WANDB_BASE_URL"), base_url)}
    except UsageError:
        return False
    return len(hosts) == 1 or hosts <= _SAME_DEPLOYMENT


def _split(url: str, named_by: str) -> SplitResult:
    """Return the parts of W&B's URL, without user and password. Raises UsageError."""
    # Imported late: who looks at mounts, or takes one down, asks no server.
    import requests

    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        # What is none to those who will be given it.
        requests.Request("GET", url).prepare()
    except ValueError:
        is_one = False
    if not is_one or parts.query or parts.fragment:
        shown = url.rpartition("@")[2].partition("?")[0].partition("#")[0]
        raise UsageError(
            f"{named_by} {shown!r} is no http(s) address of a server: give one like"
            " https://wandb.example.com"
        )
    return parts._replace(netloc=parts.netloc.rpartition("@")[2])


def _find_key(
    environ: Mapping[str, str], base_url: str, files: UserFiles, settings: Mapping[str, str]
) -> Secret:
    host = urlsplit(base_url).netloc
    key = environ.get("WANDB_API_KEY") or files.netrc_key(_netrc_names(host))
    if not key and (in_file := settings.get("api_key")):
        settings_url = _normalize(settings.get("base_url", ""), "the W&B settings' base_url")
        key = in_file if settings_url == base_url else ""
    if not key:
        netrc = files.path_of("NETRC")
        is_gone = netrc is not None and not os.path.exists(netrc)
        gone = f" (NETRC names {netrc}, which isn't there)" if is_gone else ""
        raise NoKey(f"no W&B API key for {host} was found{gone}: {_HOW_TO_LOG_IN}")
    return _checked(key, f"for {host}")


def _systemd_credential(files: UserFiles) -> Path | None:
    """Return the file in which systemd gives a service its key, where it does."""
    folder = files.path_of("CREDENTIALS_DIRECTORY")
    path = folder / _SYSTEMD_CREDENTIAL if folder else None
    return path if path is not None and os.path.exists(path) else None


def _checked(key: str, where: str) -> Secret:
    """Return a key that may be one, and was found there. Raises LoginRefused."""
    key = key.strip()
    if not _may_be_key(key):
        raise LoginRefused(
            f"the W&B API key {where} is not one: it has {len(key)} characters and needs"
            f" {_SHORTEST_KEY} or more letters, digits, '_' and '-'; {_HOW_TO_LOG_IN}"
        )
    return Secret(key)


def _may_be_key(text: str) -> bool:
    # On-premises keys have a prefix before the first hyphen.
    parts = (text, text.partition("-")[2])
    return bool(_JWT.fullmatch(text)) or any(_KEY.fullmatch(part) for part in parts)


def _netrc_names(host: str) -> list[str]:
    """Return what a host may be called in netrc, best first."""
    return [host, "api.wandb.ai"] if host in _SAME_DEPLOYMENT else [host]


def app_hosts(base_url: str) -> list[str]:
    """Return the hosts, with their ports, at which the pages of a server are shown."""
    host = urlsplit(base_url).netloc
    hosts = [host, host.removeprefix("api.")]
    return [*hosts, *_APPS] if host in _SAME_DEPLOYMENT else hosts


def read_identity_token(path: Path) -> str:
    """Return a federated identity's token as it is now. Raises LoginRefused."""
    return _secret_in(path, "identity token")


def _secret_in(path: Path, what: str) -> str:
    """Return the secret that a file holds now. Raises LoginRefused."""
    try:
        refuse_to_wait(path)
        return path.read_text().strip()
    except OSError as error:
        if _KEY.search(path.name):
            # Not the name, nor the error, which has it.
            raise LoginRefused(
                f"what is named as the file with the {what} looks like that itself, and is no file:"
                " put it in a file that only you may read, and name that"
            ) from None
        raise LoginRefused(f"can't read the {what} {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise LoginRefused(f"{path} holds no {what}: it is no text") from None


def _identity(token: str) -> list[str]:
    """Return whom a token names, which stays when it is renewed; else the token itself."""
    claims = token.split(".")[1] if _JWT.fullmatch(token) else ""
    try:
        found = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return ["identity", str(found["iss"]), str(found["sub"])]
    except (ValueError, KeyError, TypeError):
        return ["token", token]


def _extra_headers(environ: Mapping[str, str]) -> dict[str, str]:
    name = next(
        (
            name
            for name in ("WANDB_X_EXTRA_HTTP_HEADERS", "WANDB__EXTRA_HTTP_HEADERS")
            if environ.get(name)
        ),
        None,
    )
    if name is None:
        return {}
    headers = {
        header: _header_text(f"{header!r} of {name}", text)
        for header, text in _json_texts(name, environ[name]).items()
    }
    if wrong := [header for header in headers if not _HEADER_NAME.fullmatch(header)]:
        raise UsageError(f"{name} has {wrong[0]!r}, and no HTTP header can be named so: correct it")
    for header in [header for header in headers if header.lower() == "proxy-authorization"]:
        log.warning(
            "%s of %s is left out: it is no header for W&B's server; give a proxy's user and"
            " password in its URL",
            header,
            name,
        )
        del headers[header]
    return headers


def _header_text(name: str, text: str) -> str:
    """Return what goes into a header, byte by byte. Raises UsageError for what none can hold."""
    text = text.strip().encode("utf-8", "surrogatepass").decode("latin-1")
    if not _HEADER_TEXT.fullmatch(text):
        raise UsageError(f"{name} can't be sent, since no HTTP header can hold it: correct it")
    return text


def _proxies(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Return W&B's own proxy settings; the standard variables are requests' to read."""
    proxies: dict[str, str] = {}
    if environ.get("WANDB__PROXIES"):
        proxies.update(_json_texts("WANDB__PROXIES", environ["WANDB__PROXIES"]))
    for scheme in ("http", "https"):
        name = f"{scheme}_proxy"
        if value := environ.get(f"WANDB_{name.upper()}") or settings.get(name):
            proxies[scheme] = value
    return proxies


def _json_texts(name: str, text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise UsageError(f'{name} must be a JSON object of texts, like {{"X-Name": "value"}}')
    return value

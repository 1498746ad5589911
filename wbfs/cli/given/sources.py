"""What a user means by a SOURCE: as wbfs writes it, or as a browser shows it."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from wbfs.model.errors import UsageError
from wbfs.model.names import ARTIFACT_URI, source_of_url
from wbfs.remote.credentials import app_hosts, load_credentials

_HOST = re.compile(r"[\w-]+(\.[\w-]+)+(:\d+)?/")
"""As an address begins where a browser leaves its scheme out."""


def source_of(text: str) -> str:
    """Return a text as a SOURCE, be it a URL of W&B's. Raises UsageError, NameInvalid."""
    if text.startswith(ARTIFACT_URI):
        return source_of_url(text)
    scheme, is_url, _ = text.partition("://")
    if not is_url and not _HOST.match(text):
        return text
    if is_url and scheme not in ("http", "https"):
        raise UsageError(
            f"a {scheme}:// URL is no artifact: give entity/project/artifact:alias, or the address"
            " of an artifact's page"
        )
    url = text if is_url else f"https://{text}"
    try:
        host = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        raise UsageError(f"{text!r} is no URL: give entity/project/artifact:alias") from None
    server = load_credentials(key_is_needed=False).base_url
    app = urlsplit(os.environ.get("WANDB_APP_URL", "")).netloc
    if host in (*app_hosts(server), app):
        return source_of_url(url)
    if not is_url:
        return text
    raise UsageError(
        f"that is a page of {host}, and your W&B settings name {server}: set WANDB_BASE_URL to"
        " that server's address, or give entity/project/artifact:alias"
    )

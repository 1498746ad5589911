"""What a user means by a SOURCE: as wbfs writes it, or as a browser shows it."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from wbfs.model.errors import UsageError
from wbfs.model.names import ARTIFACT_URI, source_of_url
from wbfs.remote.credentials import app_hosts, load_credentials


def source_of(text: str) -> str:
    """Return a text as a SOURCE, be it a URL of W&B's. Raises UsageError, NameInvalid."""
    if text.startswith(ARTIFACT_URI):
        return source_of_url(text)
    if not text.startswith(("http://", "https://")):
        return text
    try:
        host = urlsplit(text).netloc.rpartition("@")[2]
    except ValueError:
        raise UsageError(f"{text!r} is no URL: give entity/project/artifact:alias") from None
    server = load_credentials(key_is_needed=False).base_url
    app = urlsplit(os.environ.get("WANDB_APP_URL", "")).netloc
    if host not in (*app_hosts(server), app):
        raise UsageError(
            f"that is a page of {host}, and your W&B settings name {server}: set WANDB_BASE_URL to"
            " that server's address, or give entity/project/artifact:alias"
        )
    return source_of_url(text)

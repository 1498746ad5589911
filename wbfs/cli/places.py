"""Where files are that other programs have a say in."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from wbfs.model.errors import UsageError

_PATHS = (
    "HOME",
    "NETRC",
    "WANDB_CONFIG_DIR",
    "WANDB_DIR",
    "WANDB_IDENTITY_TOKEN_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_CA_BUNDLE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CLOUDSDK_CONFIG",
    "AZURE_CONFIG_DIR",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_CLIENT_CERTIFICATE_PATH",
)


def keep_paths() -> None:
    """Have the environment's paths mean what they mean now, wherever a daemon goes later.

    Those who read them read them when they need them. Raises UsageError where the working directory
    is gone.
    """
    for name in _PATHS:
        path = os.environ.get(name, "")
        if path and not path.startswith(("/", "~")):
            try:
                os.environ[name] = os.path.abspath(path)
            except FileNotFoundError:
                raise UsageError(
                    f"{name}={path} is relative to the working directory, and that is gone: name it"
                    " by a path from the root"
                ) from None


def sdk_cache_dir() -> Path:
    """Return the wandb SDK's cache directory, as the SDK finds it."""
    named = os.environ.get("WANDB_CACHE_DIR")
    folder = Path(named) if named else platformdirs.user_cache_path("wandb")
    return folder.absolute()

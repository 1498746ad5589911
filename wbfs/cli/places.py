"""Where files are that other programs have a say in."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def sdk_cache_dir() -> Path:
    """Return the wandb SDK's cache directory, as the SDK finds it."""
    named = os.environ.get("WANDB_CACHE_DIR")
    folder = Path(named) if named else platformdirs.user_cache_path("wandb")
    return folder.absolute()

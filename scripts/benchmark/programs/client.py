"""What a program needs to ask a W&B server for an artifact's files: wbfs's own questions, alone."""

from __future__ import annotations

import io
import json
from typing import Any

from wbfs.model.entries import Version
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.credentials import load_credentials
from wbfs.remote.http.transport import Deadline, Transport

LIMIT_S = 60.0
LARGEST_MANIFEST = 1 << 30


def client() -> tuple[WandbApi, Transport, Deadline]:
    """Return who asks, with the environment's credentials, over which transport, and until when."""
    credentials = load_credentials()
    transport = Transport.for_credentials(credentials, checkpoint=lambda: None)
    api = WandbApi(transport=transport, credentials=credentials)
    return api, transport, Deadline.after(LIMIT_S)


def contents_of(api: WandbApi, version: Version, deadline: Deadline) -> dict[str, Any]:
    """Fetch a version's manifest and return its entries by path."""
    manifest = io.BytesIO()
    api.manifest(version, manifest, limit=LARGEST_MANIFEST, deadline=deadline)
    contents: dict[str, Any] = json.loads(manifest.getvalue())["contents"]
    return contents

"""Manifests on the server's side: parsing, merging, digests and the table of entries.

The W&B protocol: a client uploads a FULL manifest, an INCREMENTAL one (what is
added to a base version) or several PATCHes (one a process that contributes to
a distributed artifact); what is read back is always FULL.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from wbfs.devserver.errors import InvalidRequest
from wbfs.model.digests import Algorithm, new_hasher

DIGEST_ALGORITHMS = {"MANIFEST_MD5": Algorithm.MD5, "MANIFEST_XXH128": Algorithm.XXH128}
STORAGE_POLICY = "wandb-storage-policy-v1"


class Manifest(msgspec.Struct, rename="camel"):
    """A manifest file; an entry of `contents` stays the JSON object that it is."""

    version: int
    storage_policy: str
    storage_policy_config: dict[str, Any]
    contents: dict[str, dict[str, Any]]


def parse_manifest(data: bytes, digest: str) -> Manifest:
    """Parse an uploaded manifest.

    digest: the base64 MD5 of the file that the client announced.
    Raises InvalidRequest if the file is not that, or not a manifest.
    """
    found = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii")
    if found != digest:
        raise InvalidRequest(f"manifest digest is {found!r}, announced was {digest!r}")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"manifest: {error}") from error
    if manifest.version != 1 or manifest.storage_policy != STORAGE_POLICY:
        raise InvalidRequest("unknown kind of manifest")
    return manifest


def serialize_manifest(
    contents: Mapping[str, Mapping[str, Any]], layout: str, region: str | None = None
) -> bytes:
    """Write a FULL manifest of `contents` for the storage layout `V1` or `V2`, and a region."""
    config = {"storageLayout": layout} | ({"storageRegion": region} if region else {})
    return msgspec.json.encode(
        {
            "version": 1,
            "storagePolicy": STORAGE_POLICY,
            "storagePolicyConfig": config,
            "contents": contents,
        }
    )


def artifact_digest(contents: Mapping[str, Mapping[str, Any]], algorithm: str) -> str:
    """Return the digest of an artifact with these contents, as the SDK computes it."""
    hasher = new_hasher(DIGEST_ALGORITHMS[algorithm])
    hasher.update(b"wandb-artifact-manifest-v1\n")
    for path in sorted(contents):
        hasher.update(f"{path}:{contents[path]['digest']}\n".encode())
    return hasher.hexdigest()

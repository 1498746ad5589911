"""A manifest's JSON becomes entries. Foreign input: a row of no use is named, not fatal."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from wbfs.model.digests import Algorithm, Digest, new_hasher
from wbfs.model.entries import Entry, Manifest, Reference
from wbfs.model.errors import RemoteProtocolError

POLICY = "wandb-storage-policy-v1"


class _Manifest(msgspec.Struct):
    version: int
    contents: dict[str, msgspec.Raw]
    storagePolicy: str = POLICY


class _Row(msgspec.Struct):
    digest: str
    size: int | None = None
    ref: str | None = None
    birthArtifactID: str | None = None
    extra: dict[str, Any] | None = None


def parse_manifest(data: bytes, *, digest: str, digest_algorithm: str, what: str) -> Manifest:
    """Parse a manifest; `digest` is what the version says that its entries hash to.

    Raises RemoteProtocolError, which names it as `what`, where it is no manifest at all.
    """
    raw = _decode(data, what)
    if raw.version != 1 or raw.storagePolicy != POLICY:
        raise RemoteProtocolError(
            f"the manifest of {what} is of version {raw.version} and policy {raw.storagePolicy!r},"
            " which this wbfs does not know: a newer one may"
        )
    entries: list[Entry] = []
    unreadable: list[tuple[str, str]] = []
    digests: dict[str, str] = {}
    for path, row_data in raw.contents.items():
        try:
            row = msgspec.json.decode(row_data, type=_Row)
            digests[path] = row.digest
            entries.append(_entry(path, row))
        except (msgspec.MsgspecError, ValueError) as error:
            unreadable.append((path, f"it can't be read: {error}"))
    return Manifest(
        entries=tuple(entries),
        unreadable=tuple(unreadable),
        digest_matches=_hash(digests, digest_algorithm) == digest,
    )


def _decode(data: bytes, what: str) -> _Manifest:
    try:
        return msgspec.json.decode(data, type=_Manifest)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"the manifest of {what} is none: {error}") from error
    except msgspec.DecodeError:
        pass
    # Python's own decoder takes what JSON allows and UTF-8 doesn't: names with lone surrogates.
    try:
        loaded = json.loads(data)
        contents = {
            path: msgspec.Raw(json.dumps(row).encode()) for path, row in loaded["contents"].items()
        }
        return _Manifest(
            version=loaded["version"],
            contents=contents,
            storagePolicy=loaded.get("storagePolicy", POLICY),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RemoteProtocolError(
            f"the manifest of {what} is none: {type(error).__name__}"
        ) from error


def _entry(path: str, row: _Row) -> Entry:
    """Return a row's entry. Raises ValueError."""
    extra = row.extra or {}
    if row.size is not None and row.size < 0:
        raise ValueError("its size is negative")
    algorithm = Algorithm.XXH128 if extra.get("alg") == "XXH128" else Algorithm.MD5
    if row.ref is None:
        return Entry(
            path=path,
            size=row.size or 0,
            digest=Digest.from_base64(row.digest, algorithm),
            birth_artifact_id=row.birthArtifactID or "",
        )
    reference = Reference(
        uri=row.ref,
        token=row.digest,
        etag=_text(extra, "etag"),
        version_id=_text(extra, "versionID"),
    )
    scheme = row.ref.partition(":")[0]
    content_digest = None
    if scheme == "wandb-artifact" or (scheme == "file" and not is_digest_of_uri(reference)):
        content_digest = Digest.from_base64(row.digest, algorithm)
    # Some writers leave the size out or write 0 where they don't know it.
    unknown = not row.size and (scheme == "wandb-artifact" or reference.unchecked)
    return Entry(
        path=path,
        size=None if unknown else row.size,
        digest=content_digest,
        reference=reference,
        birth_artifact_id=row.birthArtifactID or "",
    )


def is_digest_of_uri(reference: Reference) -> bool:
    """Whether a file reference was logged without a look at the file: its digest is its URI's."""
    digest = hashlib.md5(reference.uri.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return reference.token == base64.b64encode(digest.digest()).decode()


def _text(extra: Mapping[str, Any], name: str) -> str:
    value = extra.get(name)
    return "" if value is None else str(value)


def _hash(digests: Mapping[str, str], algorithm: str) -> str:
    """Hash a manifest as the SDK does: every path and digest as written, in the paths' order."""
    hasher = new_hasher(Algorithm.XXH128 if algorithm == "MANIFEST_XXH128" else Algorithm.MD5)
    hasher.update(b"wandb-artifact-manifest-v1\n")
    for path in sorted(digests):
        hasher.update(f"{path}:{digests[path]}\n".encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()

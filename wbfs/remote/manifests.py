"""A manifest's JSON becomes rows. Foreign input: a row of no use is named, not fatal.

A manifest may have a million rows. They stay the JSON that they are, and each is decoded when it is
asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
from collections.abc import Mapping
from typing import Any

import msgspec

from wbfs.model.digests import Algorithm, digest_bytes, new_hasher
from wbfs.model.entries import Reference, Row
from wbfs.model.errors import RemoteProtocolError

POLICY = "wandb-storage-policy-v1"


class _Manifest(msgspec.Struct):
    version: int
    contents: dict[str, msgspec.Raw]
    storagePolicy: str = POLICY


class _JsonRow(msgspec.Struct, gc=False):
    digest: str
    size: int | None = None
    ref: str | None = None
    birthArtifactID: str | None = None
    extra: dict[str, Any] | None = None


_decode_row = msgspec.json.Decoder(_JsonRow).decode


class Manifest:
    """A version's manifest as the server gave it: nothing in it is to be trusted.

    `paths` are those of its rows, sorted. `unreadable` names what are no rows at all, each with the
    reason: (path, reason). `digest_matches` tells whether it hashes to the version's digest.
    """

    def __init__(
        self, data: bytes | mmap.mmap, *, digest: str, digest_algorithm: str, what: str
    ) -> None:
        """Read a manifest; `digest` is what the version says that its entries hash to.

        Raises RemoteProtocolError, which names it as `what`, where it is no manifest at all.
        """
        raw = _decode(data, what)
        if raw.version != 1 or raw.storagePolicy != POLICY:
            raise RemoteProtocolError(
                f"the manifest of {what} is of version {raw.version} and policy"
                f" {raw.storagePolicy!r}, which this wbfs does not know: a newer one may"
            )
        self._contents = raw.contents
        self.paths: list[str] = []
        self.unreadable: list[tuple[str, str]] = []
        # As the SDK does: every path and digest as written, in the paths' order.
        is_xxh128 = digest_algorithm == "MANIFEST_XXH128"
        hasher = new_hasher(Algorithm.XXH128 if is_xxh128 else Algorithm.MD5)
        hasher.update(b"wandb-artifact-manifest-v1\n")
        for path in sorted(raw.contents):
            try:
                row = _decode_row(raw.contents[path])
                hasher.update(f"{path}:{row.digest}\n".encode("utf-8", "surrogatepass"))
                _row(row)
            except (msgspec.MsgspecError, ValueError) as error:
                self.unreadable.append((path, f"it can't be read: {error}"))
            else:
                self.paths.append(path)
        self.digest_matches = hasher.hexdigest() == digest

    def row(self, path: str) -> Row:
        """Return the row of one of `paths`."""
        return _row(_decode_row(self._contents[path]))


def _decode(data: bytes | mmap.mmap, what: str) -> _Manifest:
    try:
        return msgspec.json.decode(data, type=_Manifest)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"the manifest of {what} is none: {error}") from error
    except msgspec.DecodeError:
        pass
    # Python's own decoder takes what JSON allows and UTF-8 doesn't: names with lone surrogates.
    try:
        loaded = json.loads(data[:])
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


def _row(row: _JsonRow) -> Row:
    """Return what a row says. Raises ValueError."""
    if row.size is not None and row.size < 0:
        raise ValueError("its size is negative")
    algorithm = Algorithm.MD5
    if row.extra and row.extra.get("alg") == "XXH128":
        algorithm = Algorithm.XXH128
    birth = row.birthArtifactID or ""
    if row.ref is None:
        return Row(row.size or 0, algorithm, digest_bytes(row.digest), birth, None)
    extra = row.extra or {}
    reference = Reference(
        uri=row.ref,
        token=row.digest,
        etag=_text(extra, "etag"),
        version_id=_text(extra, "versionID"),
    )
    scheme = row.ref.partition(":")[0]
    digest = None
    if scheme == "wandb-artifact" or (scheme == "file" and not is_digest_of_uri(reference)):
        digest = digest_bytes(row.digest)
    # Some writers leave the size out or write 0 where they don't know it.
    unknown = not row.size and (scheme == "wandb-artifact" or reference.unchecked)
    return Row(None if unknown else row.size, algorithm, digest, birth, reference)


def is_digest_of_uri(reference: Reference) -> bool:
    """Whether a file reference was logged without a look at the file: its digest is its URI's."""
    digest = hashlib.md5(reference.uri.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return reference.token == base64.b64encode(digest.digest()).decode()


def _text(extra: Mapping[str, Any], name: str) -> str:
    value = extra.get(name)
    return "" if value is None else str(value)

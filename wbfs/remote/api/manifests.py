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

from wbfs.model.digests import EMPTY, Algorithm, ManifestDigest, digest_bytes
from wbfs.model.entries import LeftOut, Reference, Row
from wbfs.model.errors import RemoteProtocolError
from wbfs.model.etags import may_be_compressed
from wbfs.remote.api.json_members import members

POLICY = "wandb-storage-policy-v1"
MAX_SIZE = (1 << 63) - 1
"""Bytes that a file may have: no system can say more of one."""
MAX_TEXT = 16 << 10
"""Characters that a text of a row may have; a URI is the longest of them."""
SHOWN_CHARACTERS = 80
BOM = b"\xef\xbb\xbf"


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

    `paths` are those of its rows, sorted. `left_out` are those that are no rows at all.
    `digest_matches` tells whether it hashes to the version's digest.
    """

    def __init__(
        self, data: bytes | mmap.mmap, *, digest: str, digest_algorithm: str, what: str
    ) -> None:
        """Read a manifest; `digest` is what the version says that its entries hash to.

        Raises RemoteProtocolError, which names it as `what`, where it is no manifest at all.
        """
        self.left_out = LeftOut()
        raw = self._decode(data, what)
        if raw.version != 1 or raw.storagePolicy != POLICY:
            raise RemoteProtocolError(
                f"the manifest of {what} is of version {raw.version} and policy"
                f" {raw.storagePolicy[:SHOWN_CHARACTERS]!r}, which this wbfs does not know: a newer"
                " one may"
            )
        self._contents = raw.contents
        self.paths: list[str] = []
        # As the SDK does: every path and digest as written, in the paths' order.
        is_xxh128 = digest_algorithm == "MANIFEST_XXH128"
        of_all = ManifestDigest(Algorithm.XXH128 if is_xxh128 else Algorithm.MD5)
        for path in sorted(raw.contents):
            try:
                row = _decode_row(raw.contents[path])
                of_all.add(path, row.digest)
                _row(row)
            except (ValueError, RecursionError) as error:
                self.left_out.add(path, f"it can't be read: {error}")
            else:
                self.paths.append(path)
        self.digest_matches = of_all.hexdigest() == digest

    def row(self, path: str) -> Row:
        """Return the row of one of `paths`."""
        return _row(_decode_row(self._contents[path]))

    def _decode(self, data: bytes | mmap.mmap, what: str) -> _Manifest:
        try:
            return msgspec.json.decode(data, type=_Manifest)
        except msgspec.ValidationError as error:
            raise _no_manifest(what, error) from error
        except (ValueError, RecursionError):
            # What one row makes of it is not to be the others' fault.
            return self._take_apart(data, what)

    def _take_apart(self, data: bytes | mmap.mmap, what: str) -> _Manifest:
        """Return a manifest of those rows that there are in what is no JSON as a whole."""
        start = len(BOM) if data[: len(BOM)] == BOM else 0
        try:
            # Of names that are there twice the last one counts, as everywhere.
            found = members(data, start, len(data))
            spans = {one.name: one[1:] for one in found if one.name in _HEAD}
            head = {name: data[slice(*span)] for name, span in spans.items()}
            contents = spans.get(b'"contents"')
            if contents is not None:
                head[b'"contents"'] = b"{}"
            manifest = msgspec.json.decode(
                b"{%s}" % b",".join(map(b":".join, head.items())), type=_Manifest
            )
            assert contents is not None
            for name, *row in members(data, *contents):
                self._add_row(manifest.contents, name, data[slice(*row)])
        except (ValueError, RecursionError) as error:
            raise _no_manifest(what, error) from error
        return manifest

    def _add_row(self, contents: dict[str, msgspec.Raw], name: bytes, row: bytes) -> None:
        try:
            # Python's own decoder takes what JSON allows and UTF-8 doesn't: lone surrogates.
            path = json.loads(name.decode())
        except ValueError:
            self.left_out.add(name.decode(errors="backslashreplace"), "its path is no text")
        else:
            contents[path] = msgspec.Raw(row)


_HEAD = frozenset((b'"version"', b'"storagePolicy"', b'"contents"'))


def _no_manifest(what: str, error: Exception) -> RemoteProtocolError:
    return RemoteProtocolError(f"the manifest of {what} is none: {error}")


def _row(row: _JsonRow) -> Row:
    """Return what a row says. Raises ValueError."""
    size = row.size
    if size is not None and not 0 <= size <= MAX_SIZE:
        raise ValueError("its size is negative" if size < 0 else "its size is beyond any file's")
    algorithm = Algorithm.MD5
    if row.extra and row.extra.get("alg") == "XXH128":
        algorithm = Algorithm.XXH128
    birth = _bounded("birthArtifactID", row.birthArtifactID or "")
    if row.ref is None:
        own_digest = digest_bytes(row.digest)
        return Row(_size(size, algorithm, own_digest), algorithm, own_digest, birth, None)
    extra = row.extra or {}
    reference = Reference(
        uri=_bounded("ref", row.ref),
        token=_bounded("digest", row.digest),
        etag=_text(extra, "etag"),
        version_id=_text(extra, "versionID"),
    )
    digest = None
    if reference.is_of_artifact:
        digest = _digest_behind(row.digest)
    elif reference.is_local and not is_digest_of_uri(reference):
        digest = digest_bytes(row.digest)
    size = _size(size, algorithm, digest)
    if not (reference.is_web and size):
        return Row(size, algorithm, digest, birth, reference)
    if not reference.unchecked and may_be_compressed(reference.token):
        size = None
    return Row(size, algorithm, digest, birth, reference, size_is_hint=size is not None)


def _size(size: int | None, algorithm: Algorithm, digest: bytes | None) -> int | None:
    """Return a file's size; None where the row doesn't tell.

    Some writers leave the size out or write 0 where they don't know it.
    """
    if digest == EMPTY[algorithm]:
        return size or 0
    return size or None


def _digest_behind(text: str) -> bytes | None:
    """Return the digest of another artifact's file; None where that is itself a reference."""
    try:
        return digest_bytes(text)
    except ValueError:
        return None


def is_digest_of_uri(reference: Reference) -> bool:
    """Whether a file reference was logged without a look at the file: its digest is its URI's."""
    digest = hashlib.md5(reference.uri.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return reference.token == base64.b64encode(digest.digest()).decode()


def _text(extra: Mapping[str, Any], name: str) -> str:
    value = extra.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int):
        raise ValueError(f"its {name} is neither text nor number")
    return _bounded(name, str(value))


def _bounded(name: str, text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"its {name} has {len(text)} characters")
    return text

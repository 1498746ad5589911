"""Content digests as W&B writes them: base64 of MD5 or of big-endian XXH128."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import xxhash


class Algorithm(StrEnum):
    """A content digest's algorithm; the value is its folder's name in the SDK's cache."""

    MD5 = "md5"
    XXH128 = "xxh128"


class Hasher(Protocol):
    """What `hashlib` and `xxhash` objects have in common."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


def new_hasher(algorithm: Algorithm) -> Hasher:
    """Return an empty hasher of `algorithm`."""
    if algorithm is Algorithm.XXH128:
        return xxhash.xxh128()
    return hashlib.md5(usedforsecurity=False)


class ManifestDigest:
    """The digest of a manifest, as versions have it: of its entries in the order of their paths."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._hasher = new_hasher(algorithm)
        self._hasher.update(b"wandb-artifact-manifest-v1\n")

    def add(self, path: str, digest: str) -> None:
        """Take the next entry's path and its digest, as manifests write them."""
        self._hasher.update(f"{path}:{digest}\n".encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """Return the digest of the entries so far, in hexadecimal."""
        return self._hasher.hexdigest()


EMPTY = {algorithm: new_hasher(algorithm).digest() for algorithm in Algorithm}
"""What no bytes at all hash to."""


def digest_bytes(text: str) -> bytes:
    """Parse a manifest's digest: standard base64, padded, of 16 bytes.

    Raises ValueError for anything else.
    """
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise ValueError(f"digest {text!r} is not base64") from error
    if len(raw) != 16:
        raise ValueError(f"digest {text!r} has {len(raw)} bytes, not 16")
    return raw


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's bytes hash to: an algorithm and 32 lower-case hexadecimal digits."""

    algorithm: Algorithm
    hex: str

    @property
    def base64(self) -> str:
        """The digest as manifests write it."""
        return base64.b64encode(bytes.fromhex(self.hex)).decode("ascii")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

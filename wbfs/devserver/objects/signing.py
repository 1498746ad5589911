"""Signed queries: who has one may send one method to one key, for as long as it says.

They look like an object store's: `?X-Date=...&X-Expires=...&X-Signature=...`.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

SIGNATURE = "X-Signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a query is refused, in an object store's words."""

    code: str
    message: str


EXPIRED = Refusal(code="AccessDenied", message="Request has expired")
UNSIGNED = Refusal(code="AccessDenied", message="Access Denied")
WRONG = Refusal(
    code="SignatureDoesNotMatch", message="The request signature does not match the request"
)


class Signer:
    """Signs queries and checks them, with a secret of its own."""

    def __init__(self, secret_file: Path) -> None:
        """Read the secret, or make one (mode 0600): what it signed outlives a restart."""
        self._secret = _load_secret(secret_file)

    def sign(
        self, method: str, key: str, *, lifetime_s: float, upload: str = "", part: int = 0
    ) -> dict[str, str]:
        """Return the query that allows `method` on `key`, or on one part of an upload to it."""
        query = {"X-Date": f"{time.time():.6f}", "X-Expires": f"{lifetime_s:g}"}
        if upload:
            query |= {"uploadId": upload, "partNumber": str(part)}
        return query | {SIGNATURE: self._signature(method, key, query)}

    def refusal(self, method: str, key: str, query: Mapping[str, str]) -> Refusal | None:
        """Return why the query doesn't allow `method` on `key` now; None if it does."""
        given = query.get(SIGNATURE)
        if given is None:
            return UNSIGNED
        # As in an object store, what allows GET allows HEAD.
        expected = self._signature("GET" if method == "HEAD" else method, key, query)
        if not hmac.compare_digest(expected.encode(), given.encode()):
            return WRONG
        if issue_time(query) + float(query["X-Expires"]) < time.time():
            return EXPIRED
        return None

    def _signature(self, method: str, key: str, query: Mapping[str, str]) -> str:
        names = ("X-Date", "X-Expires", "uploadId", "partNumber")
        signed = [method, quote(key), *(quote(query.get(name, "")) for name in names)]
        return hmac.digest(self._secret, "\n".join(signed).encode(), "sha256").hex()


def issue_time(query: Mapping[str, str]) -> float:
    """Return when a signed query was issued, in seconds since 1970."""
    return float(query["X-Date"])


def _load_secret(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        secret = secrets.token_bytes(32)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secret)
        return secret

"""A certificate authority for tests, and the good and bad certificates that it signs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """Signs certificates; who trusts the certificate in `ca_file` trusts them."""

    def __init__(self, folder: Path) -> None:
        """Make one that nobody trusts yet, and keep its certificate in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca_file)

    def sign(self, host: str = "127.0.0.1", *, expired: bool = False) -> trustme.LeafCert:
        """Return a certificate for a host, which has expired if it is to."""
        now = datetime.now(UTC)
        not_after = now - timedelta(days=1) if expired else now + timedelta(days=1)
        return self._ca.issue_cert(host, not_before=now - timedelta(days=2), not_after=not_after)

    def write(self, path: Path, host: str = "127.0.0.1", *, expired: bool = False) -> None:
        """Write such a certificate and its key to a file."""
        leaf = self.sign(host, expired=expired)
        path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())

    def context(self, host: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
        """Return what a server with such a certificate speaks TLS with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.sign(host, expired=expired).configure_cert(context)
        return context


def _self_signed(folder: Path) -> ssl.SSLContext:
    """Return what a server speaks TLS with whose certificate is signed by itself."""
    authority = trustme.CA()
    files = (folder / "certificate.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(files[0])
    authority.private_key_pem.write_to_path(files[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


BAD: dict[str, tuple[str, Callable[[Authority, Path], ssl.SSLContext | None]]] = {
    "expired": ("has expired", lambda trusted, _: trusted.context(expired=True)),
    "other name": ("is for another name", lambda trusted, _: trusted.context("example.com")),
    "other address": ("is for another name", lambda trusted, _: trusted.context("127.0.0.2")),
    "self-signed": ("is self-signed", lambda _, folder: _self_signed(folder)),
    "other CA": (
        "is signed by a CA that is not trusted here; .* in REQUESTS_CA_BUNDLE",
        lambda _, folder: Authority(folder).context(),
    ),
    "no TLS": ("does not speak TLS", lambda *_: None),
}
"""Servers that can't be trusted: what is said of them, and what makes them speak so.

The latter takes who is trusted, and a folder for files of its own.
"""

"""A certificate authority for tests, and the good and bad certificates that it signs."""

from __future__ import annotations

import ssl
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

    def context(self, host: str = "127.0.0.1") -> ssl.SSLContext:
        """Return what a server with a good certificate for the host speaks TLS with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.sign(host).configure_cert(context)
        return context

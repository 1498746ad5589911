"""The certificates that the server speaks TLS with: its own, and that of who signed it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files: `server` has certificate and key, `ca` what clients are to trust."""

    server: Path
    ca: Path


def load_certificates(folder: Path, host: str) -> Certificates:
    """Return those of the folder, made for the host where there are none. Raises OSError."""
    found = Certificates(server=folder / "server.pem", ca=folder / "ca.pem")
    if not (found.server.exists() and found.ca.exists()):
        authority = trustme.CA()
        names = dict.fromkeys((host, "localhost", "127.0.0.1", "::1"))
        leaf = authority.issue_cert(*names)
        with os.fdopen(os.open(found.server, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.truncate()
            file.write(leaf.private_key_and_cert_chain_pem.bytes())
        authority.cert_pem.write_to_path(found.ca)
    return found

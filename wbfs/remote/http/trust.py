"""Whose certificates are believed, and connections to servers that have such.

As requests does it, what REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names stands in the place of the
public CAs; as Go does it, in which half of the SDK is written, what SSL_CERT_FILE and SSL_CERT_DIR
name is believed beside those. It is read once: requests would read it for each connection, and the
public CAs alone take 18 ms of processor time. Blocking code, for many threads.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import create_urllib3_context

from wbfs.model.errors import UsageError
from wbfs.remote.user_files import refuse_to_wait

_INSTEAD = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None


class Trust:
    """The CAs that the environment names, or the public ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._stamps: dict[str, Stamp] = {}

    def check(self) -> None:
        """Raise UsageError where something that the environment names is not there."""
        for name, path in _named():
            if not os.path.exists(path):
                raise UsageError(
                    f"there is no CA bundle {path}, which {name} names: correct {name}, or unset it"
                )

    def context(self, *, verify: bool) -> ssl.SSLContext:
        """Return what connections are made with; without `verify` whoever answers is believed.

        Raises UsageError where what the environment names can't be used.
        """
        if (known := self._contexts.get(verify)) is not None:
            return known
        with self._lock:
            if verify not in self._contexts:
                self._contexts[verify] = self._make(verify=verify)
            return self._contexts[verify]

    def look_again(self) -> None:
        """After a certificate was not believed: read the bundles again, if they are others now."""
        with self._lock:
            if any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
                self._contexts.clear()

    def _make(self, *, verify: bool) -> ssl.SSLContext:
        context = create_urllib3_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            # Once and by name, and not by a library's lines for each connection.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            log.warning("WANDB_INSECURE_DISABLE_SSL is set: W&B's certificates are not checked")
            return context
        named = list(_named())
        self._stamps = {path: _stamp(path) for _, path in named}
        if not any(name in _INSTEAD for name, _ in named):
            context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        for name, path in named:
            _load(context, name, Path(path))
        return context


def _named() -> Iterator[tuple[str, str]]:
    """Yield the variables and the files or folders that they name."""
    for name in _INSTEAD:
        if path := os.environ.get(name):
            yield name, path
            return
    if path := os.environ.get("SSL_CERT_FILE"):
        yield "SSL_CERT_FILE", path
    for path in os.environ.get("SSL_CERT_DIR", "").split(":"):
        if path:
            yield "SSL_CERT_DIR", path


def _stamp(path: str) -> Stamp:
    """Return what tells a file or a folder from what was there before."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _load(context: ssl.SSLContext, name: str, path: Path) -> None:
    """Believe a bundle, or all of a folder's. Raises UsageError."""
    try:
        if not path.is_dir():
            refuse_to_wait(path)
            context.load_verify_locations(path)
            return
        # By whatever name: OpenSSL alone wants them to be the certificates' hashes.
        loaded = [_try_load(context, one) for one in sorted(path.iterdir()) if not _is_alias(one)]
    except ssl.SSLError:
        loaded = []
    except OSError as error:
        raise UsageError(
            f"can't read the CA bundle {path}, which {name} names: {error.strerror}; make it"
            f" readable, or correct {name}"
        ) from None
    if not any(loaded):
        raise UsageError(
            f"{path}, which {name} names, is no CA bundle: there is no whole certificate in PEM"
            f" form in it; correct {name}, or unset it"
        )


def _try_load(context: ssl.SSLContext, path: Path) -> bool:
    """Whether a folder's file is a bundle, which is believed then. Raises OSError."""
    if not path.is_file():
        return False
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, FileNotFoundError):
        return False
    return True


def _is_alias(path: Path) -> bool:
    """Whether it is another name of a file beside it, as c_rehash makes them."""
    return path.is_symlink() and len(path.readlink().parts) == 1


class TrustingAdapter(HTTPAdapter):
    """Connects to servers as requests does, and takes from a Trust which of them to believe."""

    def __init__(self, trust: Trust, *, connections: int) -> None:
        """Keep as many connections to one server alive, and as many servers' too."""
        self._trust = trust
        super().__init__(pool_connections=connections, pool_maxsize=connections)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """Have connections to the request's server share a context."""
        server, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        is_tls = server["scheme"] == "https"
        return server, {"ssl_context": self._trust.context(verify=verify)} if is_tls else {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: requests would name a bundle here, to be read for each connection."""

    def proxy_manager_for(self, proxy: Any, **proxy_kwargs: Any) -> Any:
        """Believe a proxy that speaks TLS by the same CAs."""
        if urlsplit(proxy).scheme.lower() == "https":
            proxy_kwargs["proxy_ssl_context"] = self._trust.context(verify=True)
        return super().proxy_manager_for(proxy, **proxy_kwargs)

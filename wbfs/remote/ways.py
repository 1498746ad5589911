"""How each server is asked: with which headers of ours, through which proxies, trusting whom."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies

from wbfs import __version__
from wbfs.model.errors import RemoteError, UsageError
from wbfs.remote.failures import host_of
from wbfs.remote.redirects import Peer, origin_of

USER_AGENT = f"wbfs/{__version__}"
MAX_WAYS = 1000
"""Servers whose proxies and CAs are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a server is asked: with which headers, and what else requests takes."""

    headers: Mapping[str, str] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)


class Ways:
    """The ways to all servers; each is made once, since that reads the environment."""

    def __init__(
        self,
        *,
        server: str,
        extra_headers: Mapping[str, str],
        proxies: Mapping[str, str],
        verify: bool | str,
    ) -> None:
        """The headers go to `server` alone, which is W&B's URL; its `proxies` are for W&B."""
        self._wandb = origin_of(server)
        self._extra_headers = extra_headers
        self._proxies = proxies
        self._verify = verify
        self._ways: dict[tuple[object, ...], Way] = {}

    def to(self, url: str, peer: Peer, proxies: Mapping[str, str] | None) -> Way:
        """Return the way to a URL's server; `proxies` None means those for the peer.

        Raises RemoteError for what is no URL, UsageError where the CAs that are to be trusted
        aren't there.
        """
        is_wandbs = peer in (Peer.WANDB, Peer.WANDB_STORE)
        if proxies is None:
            proxies = self._proxies if is_wandbs else {}
        try:
            parts = urlsplit(url)
            key = (parts.scheme, parts.netloc, is_wandbs, *sorted(proxies.items()))
            way = self._ways.get(key)
            if way is None:
                if len(self._ways) >= MAX_WAYS:
                    self._ways.clear()
                way = self._ways[key] = self._make(url, is_wandbs, proxies)
        except ValueError:
            raise RemoteError(f"can't ask {host_of(url)}: that is no URL") from None
        return way

    def _make(self, url: str, is_wandbs: bool, proxies: Mapping[str, str]) -> Way:
        # Bytes must come as they are.
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        if is_wandbs and origin_of(url) == self._wandb:
            headers.update(self._extra_headers)
        # That certificates need not be checked is said of W&B's only.
        verify = self._verify if is_wandbs or isinstance(self._verify, str) else True
        if verify is True:
            environ = os.environ
            verify = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or True
        if isinstance(verify, str) and not os.path.exists(verify):
            raise UsageError(
                f"there is no CA bundle {verify}: correct REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or"
                " SSL_CERT_FILE, whichever names it"
            )
        options = {
            # Those asked for win over the environment's.
            "proxies": {**get_environ_proxies(url), **proxies},
            "verify": verify,
            "stream": True,
        }
        return Way(headers=headers, options=options)

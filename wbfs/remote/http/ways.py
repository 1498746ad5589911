"""How each server is asked: with which headers of ours, through which proxies, trusting whom."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy

from wbfs import __version__
from wbfs.model.errors import RemoteError, UsageError
from wbfs.remote.http.failures import PROXY_VARIABLES, host_of
from wbfs.remote.http.redirects import Peer, origin_of
from wbfs.remote.http.trust import Trust

USER_AGENT = f"wbfs/{__version__}"
_WANDBS = (Peer.WANDB, Peer.WANDB_STORE)
_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")
MAX_WAYS = 1000
"""Servers whose proxies and CAs are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a server is asked: with which headers, and what else requests takes.

    `proxy` is the one that it is asked through, as it may be told, or empty.
    """

    headers: Mapping[str, str] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    proxy: str


class Ways:
    """The ways to all servers; each is made once, since that reads the environment."""

    def __init__(
        self,
        *,
        server: str,
        extra_headers: Mapping[str, str],
        proxies: Mapping[str, str],
        verify: bool,
        trust: Trust,
    ) -> None:
        """The headers go to `server` alone, which is W&B's URL; its `proxies` are for W&B.

        So is `verify`, whether certificates are checked.
        """
        self._wandb = origin_of(server)
        self._extra_headers = extra_headers
        self._proxies = proxies
        self._verify = verify
        self._trust = trust
        self._ways: dict[tuple[object, ...], Way] = {}

    def to(self, url: str, peer: Peer, proxies: Mapping[str, str] | None) -> Way:
        """Return the way to a URL's server; `proxies` None means those for the peer.

        Raises RemoteError for what is no URL, UsageError where the CAs that are to be trusted
        aren't there, or a proxy is none.
        """
        is_wandbs = peer in _WANDBS
        if proxies is None:
            proxies = self._proxies if is_wandbs else {}
        # Not `urlsplit`, which reads all of a signed URL, and each is another.
        server = tuple(url.split("/", 3)[:3])
        key = (*server, is_wandbs, peer is Peer.GATEWAY, *sorted(proxies.items()))
        way = self._ways.get(key)
        if way is None:
            if len(self._ways) >= MAX_WAYS:
                self._ways.clear()
            try:
                way = self._ways[key] = self._make(url, peer, proxies)
            except ValueError:
                raise RemoteError(f"can't ask {host_of(url)}: that is no URL") from None
        return way

    def _make(self, url: str, peer: Peer, proxies: Mapping[str, str]) -> Way:
        is_wandbs = peer in _WANDBS
        # Bytes must come as they are.
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        if is_wandbs and origin_of(url) == self._wandb:
            headers.update(self._extra_headers)
        self._trust.check()
        # That certificates need not be checked is said of W&B's only.
        verify = self._verify or not is_wandbs
        if peer is not Peer.GATEWAY:
            # Those asked for win over the environment's.
            proxies = {**get_environ_proxies(url), **proxies}
        options = {"proxies": proxies, "verify": verify, "stream": True}
        proxy = select_proxy(url, proxies)
        return Way(headers=headers, options=options, proxy=_checked(proxy, url) if proxy else "")


def _checked(proxy: str, url: str) -> str:
    """Return the proxy for a URL as it may be told. Raises UsageError for what is none."""
    named = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(named)
        is_one = parts.scheme in ("http", "https", *_SOCKS) and bool(parts.hostname)
        is_one = is_one and parts.port != 0
        # What is none to those who will be given it.
        requests.Request("GET", f"http://{parts.netloc.rpartition('@')[2]}").prepare()
    except ValueError:
        is_one = False
    if not is_one:
        # Not shown: a password may be anywhere in it.
        raise UsageError(
            f"what is named as the proxy for {host_of(url)} is no proxy's address: give one like"
            f" http://proxy.example.com:3128 to whichever names it of {PROXY_VARIABLES}"
        )
    if parts.scheme in _SOCKS and importlib.util.find_spec("socks") is None:
        raise UsageError(
            f"the proxy {host_of(named)} for {host_of(url)} speaks SOCKS, and what is needed for"
            " that is not installed: run pip install 'wbfs[socks]'"
        )
    return host_of(named)

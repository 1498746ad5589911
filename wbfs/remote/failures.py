"""What went wrong with a request, in words that hold no URL's query.

Libraries' own texts have whole URLs in them, and a signed one is a secret.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from wbfs.model.errors import RemoteError, RemoteTimeout, WbfsError, no_descriptor

PROXY_VARIABLES = (
    "WANDB_HTTP_PROXY, WANDB_HTTPS_PROXY, WANDB__PROXIES, http_proxy in the W&B settings,"
    " HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
)
"""What may name a proxy."""
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_USER = re.compile(r"://[^\s/?#]*@")
# Of a URL, and of what HTTP libraries say of a path.
_QUERY = re.compile(r"(://[^\s?'\"<>]*|/[^\s?'\"<>]*(?=\?[^\s'\"<>]*=))\?[^\s'\"<>]*")


def host_of(url: str) -> str:
    """Return the part of a URL that may be told: the server's name and port."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "a server whose URL is none"


def without_secrets(text: str) -> str:
    """Return a text with its URLs as they may be told: without user and password, and query."""
    return _QUERY.sub(r"\1", _USER.sub("://", text))


def timed_out(url: str, proxy: str = "") -> RemoteTimeout:
    """Return the error of a server that is silent; `proxy` is what it is asked through."""
    through = f" through the proxy {proxy}" if proxy else ""
    return RemoteTimeout(
        f"{host_of(url)} does not answer in time{through}: the server or the network is slow; try"
        " again, or raise --timeout"
    )


def unreachable(url: str, error: Exception, proxy: str = "") -> WbfsError:
    """Return the error of a connection that failed or broke; `proxy` is what it goes through."""
    if any(isinstance(one, OSError) and one.errno in _NO_DESCRIPTOR for one in _causes(error)):
        return no_descriptor(f"connect to {host_of(url)}")
    if proxy:
        return RemoteError(
            f"can't reach {host_of(url)} through the proxy {proxy}: {root_cause(error)}; is it up,"
            f" and meant? It is named by {PROXY_VARIABLES}"
        )
    return RemoteError(
        f"can't reach {host_of(url)}: {root_cause(error)}; is the network up, and the server's"
        " address right?"
    )


def is_of_certificate(error: BaseException) -> bool:
    """Whether a server's certificate is what is wrong: no attempt goes better then."""
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error))


def root_cause(error: BaseException) -> str:
    """Say what failed in the operating system's words; libraries' own texts have URLs in them."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed"):
            return f"it says {str(cause).partition(': ')[2]}"
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            # getaddrinfo's numbers are its own.
            return cause.strerror if cause.errno < 0 else os.strerror(cause.errno)
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that libraries have linked to it."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        linked = (current.__cause__, current.__context__, getattr(current, "reason", None))
        pending += [one for one in (*linked, *current.args) if isinstance(one, BaseException)]

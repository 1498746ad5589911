"""What went wrong with a request, in words that hold no URL's query.

Libraries' own texts have whole URLs in them, and a signed one is a secret.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from wbfs.model.errors import (
    NO_DESCRIPTOR,
    RemoteError,
    RemoteTimeout,
    WbfsError,
    no_descriptor,
)

PROXY_VARIABLES = (
    "WANDB_HTTP_PROXY, WANDB_HTTPS_PROXY, WANDB__PROXIES, http_proxy in the W&B settings,"
    " HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
)
"""What may name a proxy."""
SLOW = "the server or the network is slow; try again, or raise --timeout"
_USER = re.compile(r"://[^\s/?#]*@")
_NAME_IT = "where a company's CA signs, name its bundle in REQUESTS_CA_BUNDLE"
_OTHER_NAME = (
    "its certificate is for another name: ask for the server by a name that stands in the"
    " certificate, or have it renewed for this one"
)
_SELF_SIGNED = (
    "its certificate is self-signed, or its CA's is and is not trusted here; where that is meant to"
    " be, name it in REQUESTS_CA_BUNDLE"
)
_UNKNOWN_CA = f"its certificate is signed by a CA that is not trusted here; {_NAME_IT}"
# By OpenSSL's numbers of what is wrong with a certificate.
_OF_CERTIFICATES = {
    2: _UNKNOWN_CA,
    9: "its certificate is not valid yet; is this machine's clock right?",
    10: "its certificate has expired: whoever runs the server has to renew it, if this machine's"
    " clock is right",
    18: _SELF_SIGNED,
    19: _SELF_SIGNED,
    20: _UNKNOWN_CA,
    21: _UNKNOWN_CA,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
# How OpenSSL calls what it finds where TLS should be.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
# Of a URL, and of what HTTP libraries say of a path.
_QUERY = re.compile(r"(://[^\s?'\"<>]*|/[^\s?'\"<>]*(?=\?[^\s'\"<>]*=))\?[^\s'\"<>]*")


def host_of(url: str) -> str:
    """Return the part of a URL that may be told: the server's name and port."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "a server whose URL is none"


def without_login(text: str) -> str:
    """Return a text with its URLs without user and password."""
    return _USER.sub("://", text)


def without_secrets(text: str) -> str:
    """Return a text with its URLs as they may be told: without user and password, and query."""
    return _QUERY.sub(r"\1", without_login(text))


def timed_out(url: str, proxy: str = "") -> RemoteTimeout:
    """Return the error of a server that is silent; `proxy` is what it is asked through."""
    through = f" through the proxy {proxy}" if proxy else ""
    return RemoteTimeout(f"{host_of(url)} does not answer in time{through}: {SLOW}")


def unreachable(url: str, error: Exception, proxy: str = "") -> WbfsError:
    """Return the error of a connection that failed or broke; `proxy` is what it goes through."""
    if any(isinstance(one, OSError) and one.errno in NO_DESCRIPTOR for one in _causes(error)):
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


def handshake_failed(url: str) -> RemoteError:
    """Return the error of a server that ended a connection before it was one."""
    return RemoteError(f"{host_of(url)} broke off the TLS handshake")


def hopeless(host: str, error: Exception) -> RemoteError | None:
    """Return the error of a server or proxy with which TLS will go no better; None where it may."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = _OF_CERTIFICATES.get(cause.verify_code)
            return RemoteError(
                f"can't trust {host}: {said or f'{cause.verify_message}; {_NAME_IT}'}"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return RemoteError(
                f"{host} does not speak TLS: is its URL one of http:// and not https://, or"
                " is there a proxy on the way that answers for it?"
            )
    return None


def root_cause(error: BaseException) -> str:
    """Say what failed in the operating system's words; libraries' own texts have URLs in them."""
    for cause in _causes(error):
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

"""Sends one request and returns its answer: by requests, or over a connection that it has made.

Of 0.85 ms of processor time for a GET of a signed URL over a connection that is there already,
requests and urllib3 take 0.55: they read the URL four times, a character at a time, and make three
kinds of headers of the answer's. So where a connection is idle, http.client below them is told
itself what to ask. What is to be decided of a connection, its address and its certificate, was when
requests made it; and where it turns out to be broken, requests asks instead. Blocking code.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from typing import Any, Protocol

import requests
import urllib3
from requests.adapters import HTTPAdapter

from wbfs.remote.http.redirects import Hop
from wbfs.remote.http.ways import Way

MAX_POOLS = 64
"""Servers whose connections are remembered."""

# What requests would send as it is: nothing to be quoted, or quoted without need, and no folders
# that are dots.
_LETTERS = r"[\w.~!$&'()*+,;=:@/-]*"
_QUOTED = "%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|[46]0|5[B-E]|7[B-DF])"
_PLAIN = f"{_LETTERS}(?:{_QUOTED}{_LETTERS})*"
_PLAIN_URL = re.compile(rf"(https?)://([\w.:\[\]-]+)((?!.*/\.)/{_PLAIN}(?:\?{_PLAIN})?)", re.ASCII)


class Answer(Protocol):
    """An answer whose body was not read yet, of which `raw` is urllib3's.

    Closed, its connection is given back.
    """

    url: str
    status_code: int
    reason: str
    raw: Any

    @property
    def headers(self) -> Mapping[str, str]: ...
    def close(self) -> None: ...


class Sender:
    """What sends requests over the connections of one adapter."""

    def __init__(self, adapter: HTTPAdapter) -> None:
        self._adapter = adapter
        # Where connections are idle, by scheme, server, and whether its certificate is checked.
        self._pools: dict[tuple[str, str, object], Any] = {}

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._adapter.close()

    def send(
        self,
        method: str,
        hop: Hop,
        way: Way,
        *,
        json: object,
        data: Mapping[str, str] | None,
        connect_s: float,
        silence_s: float,
    ) -> Answer:
        """Send a hop's request, and return its answer.

        `connect_s` is how long connecting may take, and `silence_s` how long the server may be
        silent. Raises what requests raises; TimeoutError, OSError, ValueError.
        """
        if method == "GET":
            answer = self._get(hop, way, silence_s)
            if answer is not None:
                return answer
        request = _prepared(method, hop.url, headers=hop.headers, json=json, data=data)
        return self._adapter.send(request, timeout=(connect_s, silence_s), **way.options)

    def idle(self, url: str, way: Way) -> Idle | None:
        """Take an idle connection over which a URL can be asked for; None where there is none."""
        plain = None if way.proxy else _PLAIN_URL.fullmatch(url)
        if plain is None:
            return None
        scheme, server, target = plain.groups()
        key = (scheme, server, way.options["verify"])
        pool: Any = self._pools.get(key) or self._adapter.get_connection_with_tls_context(
            _prepared(method="GET", url=f"{scheme}://{server}/"),
            verify=way.options["verify"],
            proxies=way.options["proxies"],
        )
        try:
            connection = pool._get_conn()
        except urllib3.exceptions.ClosedPoolError:
            # So many other servers were asked since.
            self._pools.pop(key, None)
            return None
        if connection.is_closed:
            pool._put_conn(connection)
            # There may be another one when requests has made a connection.
            self._pools.pop(key, None)
            return None
        if len(self._pools) >= MAX_POOLS:
            self._pools.clear()
        self._pools[key] = pool
        return Idle(pool, connection, server, target, way.headers)

    def _get(self, hop: Hop, way: Way, silence_s: float) -> Answer | None:
        """Ask over an idle connection; return None where there is none, or it breaks.

        Raises TimeoutError.
        """
        idle = self.idle(hop.url, way)
        if idle is None:
            return None
        try:
            return _IdleAnswer(idle, hop, silence_s)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException):
            return None


class Idle:
    """A connection that was idle, until it is given back.

    What is to be asked for is `target` at `server`, with those headers of ours.
    """

    def __init__(
        self, pool: Any, connection: Any, server: str, target: str, headers: Mapping[str, str]
    ) -> None:
        self.pool = pool
        self.connection = connection
        self.server = server
        self.target = target
        self.headers = headers

    def give_back(self) -> None:
        """Let others have it, who find out where it is closed by now."""
        self.pool._put_conn(self.connection)

    def close(self) -> None:
        """Close it: something else than an answer's end comes next."""
        self.connection.close()
        self.give_back()


class _IdleAnswer:
    """An answer that came over a connection that was idle."""

    def __init__(self, idle: Idle, hop: Hop, silence_s: float) -> None:
        """Ask, and wait for an answer. Raises OSError, HTTPException."""
        connection = idle.connection
        try:
            connection.timeout = silence_s
            connection.sock.settimeout(silence_s)
            connection.putrequest("GET", idle.target, skip_accept_encoding=True)
            for name, value in hop.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            # Not urllib3's own, which makes what was asked of it.
            answer = http.client.HTTPConnection.getresponse(connection)
        except BaseException:
            idle.close()
            raise
        self.url = hop.url
        self.status_code = answer.status
        self.reason = answer.reason
        self.headers = urllib3.HTTPHeaderDict(answer.headers.items())
        self.raw = urllib3.HTTPResponse(
            body=answer,
            headers=self.headers,
            status=answer.status,
            version=answer.version,
            reason=answer.reason,
            preload_content=False,
            decode_content=False,
            original_response=answer,
            pool=idle.pool,
            connection=connection,
        )

    def close(self) -> None:
        """Give the connection back; closed, unless the body was read to its end."""
        self.raw.close()
        self.raw.release_conn()


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand where requests would put what netrc says of the host."""
    return request


def _prepared(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    json: object = None,
    data: Mapping[str, str] | None = None,
) -> requests.PreparedRequest:
    request = requests.PreparedRequest()
    request.prepare(method=method, url=url, headers=headers, json=json, data=data, auth=_no_auth)
    return request

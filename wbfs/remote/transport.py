"""HTTP: one session, time-outs, retries, and answers turned into errors. The only user of requests.

Blocking code, for worker threads. No message made here holds a URL's query or a header's value:
signed URLs and keys are secrets, also in an exception's text.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self
from urllib.parse import urlsplit

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from wbfs import __version__
from wbfs.model.errors import (
    Offline,
    RateLimited,
    RemoteError,
    WbfsError,
)
from wbfs.remote.credentials import Credentials
from wbfs.remote.failures import host_of, is_of_certificate, root_cause, timed_out, unreachable

USER_AGENT = f"wbfs/{__version__}"
CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 15.0
"""Seconds that a connection may be silent before an attempt is given up."""
FIRST_WAIT_S = 0.4
LONGEST_WAIT_S = 8.0
SLEEP_SLICE_S = 0.25
PIECE_BYTES = 1 << 20
CONNECTIONS = 64
"""Connections kept alive to one host."""
MAX_REDIRECTS = 10
MAX_WAYS = 1000
"""Servers whose proxies and CAs are remembered."""

_RETRIED = frozenset({408, 409, 425, 429})
_NOT_RETRIED = frozenset({501, 505, 507, 511})


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock, in seconds."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the moment that many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        """Seconds until then, 0 after it."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.remaining_s == 0


class _Retryable(Exception):
    """An attempt that may go better next time; `error` is what it means if there is no next."""

    def __init__(self, error: WbfsError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s


class _Session(requests.Session):
    """A session that takes proxies and CAs from the environment, and never netrc's passwords."""

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Drop the key where a redirect leads to another host."""
        before, after = response.request.url, prepared_request.url
        if (
            before is None
            or after is None
            or self.should_strip_auth(  # type: ignore[no-untyped-call]
                before, after
            )
        ):
            prepared_request.headers.pop("Authorization", None)


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand where requests would put what netrc says of the host."""
    return request


class Transport:
    """The way to all servers."""

    def __init__(
        self,
        *,
        extra_headers: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        verify: bool | str = True,
        checkpoint: Callable[[], None] = lambda: None,
        offline: bool = False,
    ) -> None:
        """`extra_headers` go to W&B and its stores; `checkpoint` raises when nobody waits.

        With `offline` every request is refused.
        """
        self.extra_headers = dict(extra_headers or {})
        self._offline = offline
        self._checkpoint = checkpoint
        session = self._session = _Session()
        session.max_redirects = MAX_REDIRECTS
        session.headers["User-Agent"] = USER_AGENT
        # Bytes must come as they are, and a session shared by threads must keep no cookies.
        session.headers["Accept-Encoding"] = "identity"
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._proxies = dict(proxies or {})
        self._verify = verify
        self._ways: dict[tuple[str, str, tuple[tuple[str, str], ...] | None], dict[str, Any]] = {}
        adapter = HTTPAdapter(pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS)
        session.mount("https://", adapter)
        session.mount("http://", adapter)

    @classmethod
    def for_credentials(
        cls, credentials: Credentials, *, checkpoint: Callable[[], None], offline: bool = False
    ) -> Transport:
        """Return the transport that a user's W&B settings ask for."""
        return cls(
            extra_headers=credentials.extra_headers,
            proxies=credentials.proxies,
            verify=credentials.verify,
            checkpoint=checkpoint,
            offline=offline,
        )

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._session.close()

    def checkpoint(self) -> None:
        """Raise, in whatever way was asked for, when nobody waits for the work any more."""
        self._checkpoint()

    def refuse_offline(self) -> None:
        """Raise Offline where no request may be made."""
        if self._offline:
            raise Offline(
                "this mount is offline (--offline) and the cache does not have it; mount without"
                " --offline to fetch it"
            )

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: object = None,
        data: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        silence_s: float = SILENCE_S,
        deadline: Deadline,
    ) -> Iterator[requests.Response]:
        """Send a request and yield the answer, of any status that is not worth a retry.

        Its body is not read yet. Raises RemoteError, RateLimited, RemoteTimeout; Offline.
        """
        self.refuse_offline()

        def attempt() -> requests.Response:
            return self._attempt(method, url, headers, json, data, proxies, silence_s, deadline)

        try:
            response = attempt()
        except _Retryable as failure:
            response = self._retry(failure, attempt, deadline)
        with response:
            yield response

    def _retry(
        self, failure: _Retryable, attempt: Callable[[], requests.Response], deadline: Deadline
    ) -> requests.Response:
        """Go on after a first attempt that failed; a request that goes well does without this."""
        failures = [failure]

        def attempt_again() -> requests.Response:
            if failures:
                raise failures.pop()
            return attempt()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Retryable),
            wait=_wait,
            stop=lambda state: deadline.remaining_s <= state.upcoming_sleep,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(attempt_again)
        except _Retryable as last:
            raise last.error from None

    def body(self, response: requests.Response, deadline: Deadline) -> bytes:
        """Return the whole body, decoded: some proxy may compress what nobody asked it to.

        Raises RemoteError, RemoteTimeout.
        """
        return b"".join(self.pieces(response, deadline, decode=True))

    def pieces(
        self, response: requests.Response, deadline: Deadline, *, decode: bool = False
    ) -> Iterator[bytes]:
        """Yield an answer's body in pieces of up to 1 MiB, as they come.

        Raises RemoteError where the connection breaks, RemoteTimeout where it falls silent or the
        deadline passes, however little the server sends at a time.
        """
        url = response.url
        raw = response.raw
        try:
            # Not `read`, which waits for a whole piece: a slow server could hold it up for ever.
            while piece := raw.read1(PIECE_BYTES, decode_content=decode):
                yield piece
                self._checkpoint()
                if deadline.expired:
                    raise timed_out(url)
        except urllib3.exceptions.ReadTimeoutError:
            raise timed_out(url) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(url, error) from None

    def _attempt(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        json: object,
        data: Mapping[str, str] | None,
        proxies: Mapping[str, str] | None,
        silence_s: float,
        deadline: Deadline,
    ) -> requests.Response:
        self._checkpoint()
        remaining_s = max(deadline.remaining_s, 0.01)
        try:
            # Not `Session.request`: it reads the environment anew for each request.
            request = requests.PreparedRequest()
            request.prepare(
                method=method,
                url=url,
                headers={**self._session.headers, **headers},
                json=json,
                data=data,
                auth=_no_auth,
            )
            response = self._session.send(
                request,
                timeout=(min(CONNECT_TIMEOUT_S, remaining_s), min(silence_s, remaining_s)),
                **self._way(url, proxies),
            )
        except requests.exceptions.SSLError as error:
            if not is_of_certificate(error):
                raise _Retryable(
                    RemoteError(f"{host_of(url)} broke off the TLS handshake, also after retries")
                ) from None
            raise RemoteError(
                f"can't trust {host_of(url)}: {root_cause(error)}; where a company's CA signs,"
                " name its bundle in REQUESTS_CA_BUNDLE"
            ) from None
        except requests.exceptions.TooManyRedirects:
            raise RemoteError(f"{host_of(url)} redirects without end") from None
        except requests.exceptions.Timeout:
            raise _Retryable(timed_out(url)) from None
        except requests.exceptions.ConnectionError as error:
            raise _Retryable(unreachable(url, error)) from None
        except requests.exceptions.RequestException as error:
            raise RemoteError(f"can't ask {host_of(url)}: {type(error).__name__}") from None
        status = response.status_code
        # Azure says by 409 that an account gives nothing to the public: that is final.
        is_azures = status == 409 and "x-ms-error-code" in response.headers
        passing = status in _RETRIED or (status >= 500 and status not in _NOT_RETRIED)
        if passing and not is_azures:
            retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
            response.close()
            kind = RateLimited if status == 429 else RemoteError
            raise _Retryable(
                kind(f"{host_of(url)} answers {status} {response.reason}, also after retries"),
                retry_after_s,
            )
        return response

    def _way(self, url: str, proxies: Mapping[str, str] | None) -> dict[str, Any]:
        """Return the proxies and CAs for a server: those asked for, else the environment's."""
        parts = urlsplit(url)
        # Not the session's proxies: the environment's would win over those.
        asked = None if proxies is None else tuple(sorted(proxies.items()))
        key = (parts.scheme, parts.netloc, asked)
        way = self._ways.get(key)
        if way is None:
            if len(self._ways) >= MAX_WAYS:
                self._ways.clear()
            way = self._ways[key] = dict(
                self._session.merge_environment_settings(
                    url,
                    dict(self._proxies if proxies is None else proxies),
                    stream=True,
                    verify=self._verify if self._verify is not True else None,
                    cert=None,
                )
            )
        return way

    def _sleep(self, seconds: float) -> None:
        end = Deadline.after(seconds)
        while not end.expired:
            self._checkpoint()
            time.sleep(min(SLEEP_SLICE_S, end.remaining_s))


_backoff = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    """Return the seconds to the next attempt: ever longer, and behind what the server asked for.

    Not just what it asked for: it may ask for 0 each time, and all threads would be back at once.
    """
    failure = state.outcome.exception() if state.outcome else None
    asked_for_s = failure.retry_after_s if isinstance(failure, _Retryable) else None
    return (asked_for_s or 0.0) + _backoff(state)


def _retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None

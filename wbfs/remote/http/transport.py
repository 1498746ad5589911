"""HTTP: connections, time-outs, retries, and answers turned into errors. The only user of requests.

Blocking code, for worker threads. No message made here holds a URL's query or a header's value:
signed URLs and keys are secrets, also in an exception's text. Of requests it takes what prepares a
request and what sends it, and no session: that would follow redirects with our headers, and put
cookies and netrc's passwords in.
"""

from __future__ import annotations

import email.utils
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Self

import requests
import tenacity
import urllib3

from wbfs.model.errors import (
    NoDescriptor,
    Offline,
    RateLimited,
    RemoteError,
    RemoteTimeout,
    WbfsError,
)
from wbfs.remote.credentials import Credentials
from wbfs.remote.http.addresses import GuardedAdapter
from wbfs.remote.http.bodies import DirectAdapter, Piece
from wbfs.remote.http.failures import handshake_failed, hopeless, host_of, timed_out, unreachable
from wbfs.remote.http.redirects import Hop, Peer, next_hop
from wbfs.remote.http.sending import Answer, Idle, Sender
from wbfs.remote.http.trust import Trust
from wbfs.remote.http.ways import Way, Ways

CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 15.0
"""Seconds that a connection may be silent before an attempt is given up."""
PATIENT_SHARE = 0.25
"""The same as a share of the time that is left, where that is longer."""
FIRST_WAIT_S = 0.4
LONGEST_WAIT_S = 8.0
SLEEP_SLICE_S = 0.25
PIECE_BYTES = 1 << 20
CONNECTIONS = 64
"""Connections kept alive to one host."""
MAX_REDIRECTS = 10
REDIRECT_BODY_BYTES = 64 << 10
"""What of a redirect's own body is read, so that its connection can be used again."""

_RETRIED = frozenset({408, 409, 425, 429})
_NOT_RETRIED = frozenset({501, 505, 507, 511})


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock, in seconds.

    `patience_s` is for how long a server may bring nothing before that. From `final_s` on, a moment
    too, what fails is not tried again.
    """

    at_s: float
    patience_s: float = math.inf
    final_s: float = math.inf

    @classmethod
    def after(
        cls, seconds: float, *, patience_s: float = math.inf, retried_s: float = math.inf
    ) -> Self:
        """Return the moment that many seconds from now; retries end after `retried_s`."""
        now = time.monotonic()
        return cls(now + seconds, patience_s, now + retried_s)

    def of_an_answer(self) -> Deadline:
        """Return the moment by which an answer to what is asked now has to begin."""
        at_s = min(self.at_s, time.monotonic() + self.patience_s)
        return Deadline(at_s, final_s=self.final_s)

    @property
    def remaining_s(self) -> float:
        """Seconds until then, 0 after it."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.remaining_s == 0

    @contextmanager
    def hold(self, lock: threading.Lock, doing: str) -> Iterator[None]:
        """Hold a lock over which others may wait for a server. Raises RemoteTimeout."""
        if not lock.acquire(timeout=self.remaining_s):
            raise RemoteTimeout(f"{doing} takes too long: try again, or raise --timeout")
        try:
            yield
        finally:
            lock.release()


class _Retryable(Exception):
    """An attempt that may go better next time; `error` is what it means if there is no next."""

    def __init__(self, error: WbfsError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s


class Transport:
    """The way to all servers."""

    def __init__(
        self,
        *,
        server: str = "",
        extra_headers: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        verify: bool = True,
        private_references: bool = True,
        checkpoint: Callable[[], None] = lambda: None,
        offline: bool = False,
    ) -> None:
        """`extra_headers` go to `server` alone, which is W&B's URL, and its `proxies` are for W&B.

        References may lead to loopback and private addresses with `private_references` only;
        `checkpoint` raises when nobody waits. With `offline` every request is refused.
        """
        self._trust = trust = Trust()
        self._ways = Ways(
            server=server,
            extra_headers=extra_headers or {},
            proxies=proxies or {},
            verify=verify,
            trust=trust,
        )
        # What the library logs has whole URLs in it, and a signed one's query is a secret.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._offline = offline
        self._checkpoint = checkpoint
        turn = threading.Lock()
        self._guarded = GuardedAdapter(
            trust, connections=CONNECTIONS, turn=turn, private_allowed=private_references
        )
        self._sender = Sender(DirectAdapter(trust, connections=CONNECTIONS, turn=turn))
        self._guarded_sender = Sender(self._guarded)

    @classmethod
    def for_credentials(
        cls,
        credentials: Credentials,
        *,
        checkpoint: Callable[[], None],
        offline: bool = False,
        private_references: bool = True,
    ) -> Transport:
        """Return the transport that a user's W&B settings ask for."""
        return cls(
            server=credentials.base_url,
            extra_headers=credentials.extra_headers,
            proxies=credentials.proxies,
            verify=credentials.verify,
            checkpoint=checkpoint,
            offline=offline,
            private_references=private_references,
        )

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._sender.close()
        self._guarded_sender.close()

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

    def refuse_reference(self, url: str) -> None:
        """Raise AccessDenied where a URL says itself that it leads to where no reference may."""
        self._guarded.judge(url)

    def idle(self, url: str, *, peer: Peer) -> Idle | None:
        """Take a connection that is there and idle, to ask for a URL; None where there is none.

        It is for W&B's own servers. Raises Offline, RemoteError.
        """
        self.refuse_offline()
        return self._sender.idle(url, self._ways.to(url, peer, None))

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        peer: Peer,
        headers: Mapping[str, str],
        json: object = None,
        data: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        silence_s: float = SILENCE_S,
        deadline: Deadline,
    ) -> Iterator[Answer]:
        """Send a request and yield the answer, of any status that is not worth a retry.

        Redirects were followed, as far as the `peer` may be believed. Its body is not read yet.
        `proxies` None means those for the peer. Raises RemoteError, RateLimited, RemoteTimeout;
        Offline; AccessDenied where a reference leads to where none may.
        """
        self.refuse_offline()
        deadline = deadline.of_an_answer()

        def attempt() -> Answer:
            way = self._ways.to(url, peer, proxies)
            guarded = peer is Peer.REFERENCE
            hop = Hop(url=url, headers={**way.headers, **headers}, guarded=guarded)
            for _ in range(MAX_REDIRECTS + 1):
                response = self._attempt(method, hop, way, json, data, silence_s, deadline)
                location = response.headers.get("Location", "")
                status = response.status_code
                try:
                    after = next_hop(peer, hop, method=method, status=status, location=location)
                except RemoteError:
                    response.close()
                    raise
                if after is None:
                    return response
                self._use_up(response, deadline)
                hop, way = after, self._ways.to(after.url, peer, proxies)
            raise RemoteError(f"{host_of(url)} redirects without end")

        try:
            response = attempt()
        except _Retryable as failure:
            response = self._retry(failure, attempt, deadline)
        with closing(response):
            yield response

    def _retry(
        self, failure: _Retryable, attempt: Callable[[], Answer], deadline: Deadline
    ) -> Answer:
        """Go on after a first attempt that failed; a request that goes well does without this."""
        failures = [failure]
        telling = failure

        def attempt_again() -> Answer:
            nonlocal telling
            if failures:
                raise failures.pop()
            try:
                return attempt()
            except _Retryable as last:
                # One for which there was little time left tells nothing of the server.
                if not (isinstance(last.error, RemoteTimeout) and deadline.expired):
                    telling = last
                raise

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Retryable),
            wait=_wait,
            stop=lambda state: (
                min(deadline.at_s, deadline.final_s) <= time.monotonic() + state.upcoming_sleep
            ),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(attempt_again)
        except _Retryable:
            raise _given_up(telling, retrying.statistics.get("attempt_number", 1)) from None

    def body(self, response: Answer, deadline: Deadline) -> bytes:
        """Return the whole body, decoded: some proxy may compress what nobody asked it to.

        Raises RemoteError, RemoteTimeout.
        """
        return b"".join(map(bytes, self.pieces(response, deadline, decode=True)))

    def pieces(
        self, response: Answer, deadline: Deadline, *, decode: bool = False
    ) -> Iterator[Piece]:
        """Yield an answer's body in pieces of up to 1 MiB, as they come.

        Each is valid until the next is asked for: they may share their memory.

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

    def _use_up(self, response: Answer, deadline: Deadline) -> None:
        """Read a redirect's own body, if that is short, and give its connection back."""
        with closing(response):
            read = 0
            for piece in self.pieces(response, deadline):
                read += len(piece)
                if read > REDIRECT_BODY_BYTES:
                    return

    def _attempt(
        self,
        method: str,
        hop: Hop,
        way: Way,
        json: object,
        data: Mapping[str, str] | None,
        silence_s: float,
        deadline: Deadline,
    ) -> Answer:
        self._checkpoint()
        url = hop.url
        remaining_s = max(deadline.remaining_s, 0.01)
        # Who waits long for a server lets it take longer over one answer.
        silence_s = min(max(silence_s, remaining_s * PATIENT_SHARE), remaining_s)
        if deadline.final_s < time.monotonic() + silence_s:
            silence_s = remaining_s
        try:
            sender = self._guarded_sender if hop.guarded else self._sender
            response = sender.send(
                method,
                hop,
                way,
                json=json,
                data=data,
                connect_s=min(CONNECT_TIMEOUT_S, remaining_s),
                silence_s=silence_s,
            )
        except (requests.exceptions.Timeout, TimeoutError):
            raise _Retryable(timed_out(url, way.proxy)) from None
        except requests.exceptions.ConnectionError as error:
            is_of_proxy = isinstance(error, requests.exceptions.ProxyError)
            final = hopeless(way.proxy if is_of_proxy else host_of(url), error)
            if final is not None:
                self._trust.look_again()
                raise final from None
            if isinstance(error, requests.exceptions.SSLError):
                raise _Retryable(handshake_failed(url)) from None
            failure = unreachable(url, error, way.proxy)
            if isinstance(failure, NoDescriptor):
                raise failure from None
            raise _Retryable(failure) from None
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
            # Such as a URL that is none, or a header that HTTP can't carry.
            raise RemoteError(f"can't ask {host_of(url)}: {type(error).__name__}") from None
        status = response.status_code
        # Azure says by 409 that an account gives nothing to the public: that is final.
        is_azures = status == 409 and "x-ms-error-code" in response.headers
        if is_passing(status) and not is_azures:
            retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
            response.close()
            kind = RateLimited if status == 429 else RemoteError
            raise _Retryable(
                kind(f"{host_of(url)} answers {status} {response.reason}"), retry_after_s
            )
        return response

    def _sleep(self, seconds: float) -> None:
        end = Deadline.after(seconds)
        while not end.expired:
            self._checkpoint()
            time.sleep(min(SLEEP_SLICE_S, end.remaining_s))


def is_passing(status: int) -> bool:
    """Whether a request may go better in a moment that was answered with that status."""
    return status in _RETRIED or (status >= 500 and status not in _NOT_RETRIED)


_backoff = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    """Return the seconds to the next attempt: ever longer, and behind what the server asked for.

    Not just what it asked for: it may ask for 0 each time, and all threads would be back at once.
    """
    failure = state.outcome.exception() if state.outcome else None
    asked_for_s = failure.retry_after_s if isinstance(failure, _Retryable) else None
    return (asked_for_s or 0.0) + _backoff(state)


def _given_up(last: _Retryable, attempts: int) -> WbfsError:
    """Return the error of a request that isn't made again, with why not."""
    if last.retry_after_s:
        why = (
            f"asks for {last.retry_after_s:.0f} s of peace, which --timeout does not leave: try"
            " again then, or raise --timeout"
        )
        return type(last.error)(f"{last.error}, and {why}")
    if attempts > 1:
        return type(last.error)(f"{last.error} ({attempts} attempts)")
    return last.error


def _retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None

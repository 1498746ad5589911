"""W&B's GraphQL: authorized calls, their errors, and Relay's pages. Blocking code."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from wbfs.model.errors import (
    AccessDenied,
    LoginRefused,
    NotFound,
    RemoteError,
    RemoteProtocolError,
)
from wbfs.remote.credentials import Credentials, read_identity_token
from wbfs.remote.http.failures import host_of
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport

SILENCE_S = 30.0
"""Seconds that the server may think about a query: large listings take their time."""
TOKEN_MARGIN_S = 300.0
"""Seconds before its end that a federated identity's token is exchanged anew."""
_DENIED = ("permission denied", "not authorized", "unauthorized", "forbidden", "not logged in")


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which part of a listing is asked for: after a cursor, None for the start, and how many.

    A server may give fewer than `size`.
    """

    after: str | None = None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """A part of a listing, and the cursor that the next one comes after; None for no more."""

    items: tuple[T, ...]
    next: str | None

    def map(self, convert: Callable[[T], R | None]) -> Page[R]:
        """Return the page with its items converted, without those that become None."""
        converted = (convert(item) for item in self.items)
        return Page(items=tuple(one for one in converted if one is not None), next=self.next)


class QueryRefused(RemoteError):
    """The server understood the call and answers errors: a field that it lacks, for instance."""


class GraphQL:
    """The API of one server."""

    def __init__(self, *, transport: Transport, credentials: Credentials) -> None:
        self._transport = transport
        self._credentials = credentials
        self._host = host_of(credentials.base_url)
        self._lock = threading.Lock()
        self._authorization = ""
        self._valid_until = 0.0

    def execute(
        self, query: str, variables: Mapping[str, object], *, deadline: Deadline
    ) -> dict[str, Any]:
        """Run a query and return its data.

        Raises AccessDenied; QueryRefused; RemoteError, RateLimited or RemoteTimeout where the
        server can't be had; RemoteProtocolError where it answers something else than GraphQL.
        """
        # Before a key is looked for: offline none is needed.
        self._transport.refuse_offline()
        used = self._header(deadline)
        status, body = self._post(query, variables, used, deadline)
        if status == 401:
            # The key may have been changed since it was read.
            self._forget(used, deadline)
            fresh = self._header(deadline)
            if fresh != used:
                status, body = self._post(query, variables, fresh, deadline)
        return self._data(status, body)

    def _post(
        self, query: str, variables: Mapping[str, object], authorization: str, deadline: Deadline
    ) -> tuple[int, bytes]:
        headers = {"Authorization": authorization}
        if self._credentials.username:
            headers["X-WANDB-USERNAME"] = self._credentials.username
        if self._credentials.email:
            headers["X-WANDB-USER-EMAIL"] = self._credentials.email
        body = {"query": query, "variables": dict(variables)}
        url = f"{self._credentials.base_url}/graphql"
        with self._transport.request(
            "POST",
            url,
            peer=Peer.WANDB,
            headers=headers,
            json=body,
            silence_s=SILENCE_S,
            deadline=deadline,
        ) as response:
            return response.status_code, self._transport.body(response, deadline)

    def _data(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        errors = _messages(answer)
        if status == 401:
            said = f" ({errors})" if errors else ""
            raise LoginRefused(
                f"{self._host} does not accept the API key{said}: run `wandb login`, or check"
                " WANDB_API_KEY, the file that WBFS_TOKEN_FILE or --token-file names, and"
                " WANDB_BASE_URL"
            )
        if status == 403 and errors:
            raise AccessDenied(f"{self._host} denies it: {errors}")
        if status == 403:
            # It need not be W&B's own answer: a firewall says no more either.
            raise LoginRefused(f"{self._host} denies it: no reason given")
        if not isinstance(answer, dict) or not ("data" in answer or errors):
            raise RemoteProtocolError(
                f"{self._host} answers {status}, and not as a W&B server does: is WANDB_BASE_URL"
                " its API's address, and does a proxy or a login page stand in between?"
            )
        if errors:
            if any(word in errors.lower() for word in _DENIED):
                raise AccessDenied(f"{self._host} says: {errors}")
            raise QueryRefused(f"{self._host} says: {errors}")
        data = answer["data"]
        if not isinstance(data, dict):
            raise RemoteProtocolError(f"{self._host} answers without data")
        return data

    def page(
        self,
        query: str,
        variables: Mapping[str, object],
        path: Sequence[str],
        wanted: PageRequest,
        *,
        missing: str,
        check: Callable[[Mapping[str, Any]], None] = lambda data: None,
        deadline: Deadline,
    ) -> Page[dict[str, Any]]:
        """Return a page of a Relay connection's edges, but for those without a node.

        `path` leads to the connection; the query takes `$cursor` and `$perPage`. Raises NotFound
        with the text `missing` where something on the path is null, and what `check` does, which is
        given the data first.
        """
        paging = {"cursor": wanted.after, "perPage": wanted.size}
        data = self.execute(query, {**variables, **paging}, deadline=deadline)
        check(data)
        connection = follow(data, path, missing=missing)
        edges, info = connection.get("edges") or [], connection.get("pageInfo") or {}
        if not isinstance(edges, list) or not isinstance(info, dict):
            raise RemoteProtocolError(f"{self._host} answers no pages where it should")
        items: list[dict[str, Any]] = []
        for edge in edges:
            node = edge.get("node") if isinstance(edge, dict) else edge
            # What the user may not see comes as null.
            if node is None:
                continue
            if not isinstance(node, dict):
                raise RemoteProtocolError(f"{self._host} lists what is no object")
            items.append(edge)
        if not info.get("hasNextPage"):
            return Page(items=tuple(items), next=None)
        cursor = info.get("endCursor")
        if not isinstance(cursor, str) or not cursor or cursor == wanted.after:
            raise RemoteProtocolError(f"{self._host} pages in a circle")
        return Page(items=tuple(items), next=cursor)

    def pages(
        self,
        query: str,
        variables: Mapping[str, object],
        path: Sequence[str],
        size: int,
        *,
        missing: str,
        check: Callable[[Mapping[str, Any]], None],
        deadline: Deadline,
    ) -> Iterator[dict[str, Any]]:
        """Yield the edges of all pages of `size`; see `page`."""
        wanted = PageRequest(size=size)
        while True:
            page = self.page(
                query, variables, path, wanted, missing=missing, check=check, deadline=deadline
            )
            yield from page.items
            if page.next is None:
                return
            wanted = PageRequest(after=page.next, size=size)

    def _header(self, deadline: Deadline) -> str:
        with deadline.hold(self._lock, f"logging in to {self._host}"):
            if not self._authorization or time.time() > self._valid_until:
                self._authorization, self._valid_until = self._authorize(deadline)
            return self._authorization

    def _forget(self, authorization: str, deadline: Deadline) -> None:
        with deadline.hold(self._lock, f"logging in to {self._host}"):
            if self._authorization == authorization:
                self._authorization = ""

    def _authorize(self, deadline: Deadline) -> tuple[str, float]:
        """Return the Authorization header, and until when it is good."""
        path = self._credentials.identity_token_file
        if path is None:
            key = self._credentials.read_key().value
            return f"Basic {base64.b64encode(f'api:{key}'.encode()).decode()}", float("inf")
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": read_identity_token(path),
        }
        url = f"{self._credentials.base_url}/oidc/token"
        with self._transport.request(
            "POST", url, peer=Peer.WANDB, headers={}, data=form, deadline=deadline
        ) as response:
            status, body = response.status_code, self._transport.body(response, deadline)
        if status >= 400:
            raise LoginRefused(
                f"{self._host} does not accept the identity token of {path} ({status})"
            )
        try:
            answer = json.loads(body)
            lifetime_s = float(answer["expires_in"])
            return f"Bearer {answer['access_token']}", time.time() + lifetime_s - TOKEN_MARGIN_S
        except (ValueError, KeyError, TypeError):
            raise RemoteProtocolError(f"{self._host} gave no token for an identity") from None


def follow(data: Mapping[str, Any], path: Sequence[str], *, missing: str) -> dict[str, Any]:
    """Return what is at `path` of an answer. Raises NotFound where the server said null."""
    value = dict(data)
    for name in path:
        found = value.get(name)
        if found is None:
            raise NotFound(missing)
        if not isinstance(found, dict):
            raise RemoteProtocolError(f"the server's {'.'.join(path)} is no object")
        value = found
    return value


def _messages(answer: object) -> str:
    """Return the errors of an answer in the server's words, or the empty text."""
    if not isinstance(answer, dict):
        return ""
    errors = answer.get("errors") or ([answer["error"]] if answer.get("error") else [])
    if not isinstance(errors, list):
        return "an error that it does not describe"
    texts = [
        error.get("message", "") if isinstance(error, dict) else str(error) for error in errors
    ]
    return "; ".join(str(text) or "an error without a message" for text in texts)

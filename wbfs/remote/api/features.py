"""What a server can do that not every one can. Blocking code."""

from __future__ import annotations

import threading

from wbfs.remote.api import queries
from wbfs.remote.api.answers import parse_features
from wbfs.remote.api.graphql import GraphQL, QueryRefused
from wbfs.remote.http.transport import Deadline


class Features:
    """The features of one server, which is asked once."""

    def __init__(self, graphql: GraphQL) -> None:
        self._graphql = graphql
        self._lock = threading.Lock()
        self._found: frozenset[str] | None = None

    def has(self, name: str, deadline: Deadline) -> bool:
        """Whether the server has a feature; one that can't say has none.

        Raises AccessDenied, RemoteError.
        """
        with deadline.hold(self._lock, "asking the server what it knows"):
            if self._found is None:
                self._found = self._ask(deadline)
            return name in self._found

    def _ask(self, deadline: Deadline) -> frozenset[str]:
        try:
            data = self._graphql.execute(queries.FEATURES, {}, deadline=deadline)
        except QueryRefused:
            # An older server, which knows no such question.
            return frozenset()
        return parse_features(data.get("serverInfo") or {})

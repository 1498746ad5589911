"""What may change of a version that is there: its names, and what is said of it. Blocking code.

All calls raise AccessDenied, and RemoteError or its kinds where the server can't be had.
"""

from __future__ import annotations

from collections.abc import Iterable

from wbfs.model.entries import Version
from wbfs.remote.api import queries
from wbfs.remote.api.graphql import GraphQL
from wbfs.remote.http.transport import Deadline


class ChangesApi:
    """Changes of the versions that one user may write to."""

    def __init__(self, graphql: GraphQL) -> None:
        self._graphql = graphql

    def add_aliases(self, version: Version, aliases: Iterable[str], *, deadline: Deadline) -> None:
        """Have aliases be those of a version, whatever they were of before."""
        place = {
            "entityName": version.entity,
            "projectName": version.project,
            "artifactCollectionName": version.collection,
        }
        change = {"artifactID": version.id, "aliases": [place | {"alias": one} for one in aliases]}
        self._graphql.execute(queries.ADD_ALIASES, {"input": change}, deadline=deadline)

    def describe(
        self, version: Version, *, description: str, metadata: str, deadline: Deadline
    ) -> None:
        """Have a version's description and metadata, which is JSON, be these."""
        change = {"artifactID": version.id, "description": description, "metadata": metadata}
        self._graphql.execute(queries.DESCRIBE, {"input": change}, deadline=deadline)

"""W&B's runs: which one logged a version, and that one has a version as its input. Blocking code.

All calls raise AccessDenied, and RemoteError or its kinds where the server can't be had.
"""

from __future__ import annotations

import contextlib

from wbfs.model.runs import Run, Use
from wbfs.remote.api import queries
from wbfs.remote.api.answers import parse_creator
from wbfs.remote.api.features import Features
from wbfs.remote.api.graphql import GraphQL, QueryRefused, follow
from wbfs.remote.http.transport import Deadline


class RunsApi:
    """The runs that one user may see."""

    def __init__(self, graphql: GraphQL, features: Features) -> None:
        self._graphql = graphql
        self._features = features

    def logged_by(self, artifact_id: str, *, deadline: Deadline) -> Run | None:
        """Return the run that logged an artifact, None for none that is known. Raises NotFound."""
        missing = f"there is no artifact of id {artifact_id}, or you may not see it"
        with contextlib.suppress(QueryRefused):
            data = self._graphql.execute(queries.CREATOR, {"id": artifact_id}, deadline=deadline)
            return parse_creator(follow(data, ["artifact"], missing=missing))
        # A server which knows no such question.
        return None

    def use(self, run: Run, use: Use, *, deadline: Deadline) -> None:
        """Have a version be an input of a run, for good; twice is once.

        Raises QueryRefused where there is no such run, or the user may not see it.
        """
        variables = {
            "entityName": run.entity,
            "projectName": run.project,
            "runName": run.name,
            "artifactID": use.artifact_id,
        }
        has_names = self._features.has(queries.USE_WITH_NAMES, deadline)
        if has_names:
            entity, project, _ = use.version.split("/", 2)
            variables |= {"artifactEntityName": entity, "artifactProjectName": project}
        query = queries.use_artifact(with_names=has_names)
        self._graphql.execute(query, variables, deadline=deadline)

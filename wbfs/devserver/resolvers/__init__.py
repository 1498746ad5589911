"""The GraphQL schema with its resolvers.

A resolver checks what the viewer may do, calls the module that owns the tables,
and returns its dataclasses; fields that have no resolver are their attributes,
named in snake_case.
"""

from __future__ import annotations

import re
from importlib import resources

from ariadne import make_executable_schema
from graphql import GraphQLSchema

from wbfs.devserver.resolvers import (
    accounts,
    artifacts,
    collections,
    files,
    members,
    mutations,
    projects,
    runs,
    uploads,
)


def make_schema() -> GraphQLSchema:
    """Return the executable schema of `schema.graphql`."""
    return make_executable_schema(
        resources.files("wbfs.devserver").joinpath("schema.graphql").read_text("utf-8"),
        *accounts.TYPES,
        *projects.TYPES,
        *members.TYPES,
        *runs.TYPES,
        *collections.TYPES,
        *artifacts.TYPES,
        *files.TYPES,
        *mutations.TYPES,
        *uploads.TYPES,
        convert_names_case=_snake_case,
    )


def _snake_case(name: str, schema: GraphQLSchema, path: tuple[str, ...]) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()

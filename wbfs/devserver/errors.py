"""What a request can be refused for, with the HTTP status of routes that aren't GraphQL."""

from __future__ import annotations


class ApiError(Exception):
    """A refusal whose text is meant for the client."""

    status = 400


class InvalidRequest(ApiError):
    """The request makes no sense, or contradicts what is there."""


class Unauthenticated(ApiError):
    """The key is missing where one is needed, or it isn't valid."""

    status = 401


class PermissionDenied(ApiError):
    """The viewer may know of what they ask for, and may not do it."""

    status = 403


class NotFound(ApiError):
    """There is no such thing, or the viewer may not know that there is."""

    status = 404

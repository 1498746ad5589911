"""The ASGI app of the API port: GraphQL, run streams, file redirects, accounts."""

from __future__ import annotations

import base64
import binascii
import gzip
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
from ariadne import graphql_sync
from graphql import DocumentNode, GraphQLError, parse, validate
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from wbfs.devserver.data.accounts import Access, Accounts, User
from wbfs.devserver.data.artifacts import Artifacts, Entry
from wbfs.devserver.data.database import Database
from wbfs.devserver.data.ids import decode_id
from wbfs.devserver.data.memberships import Memberships
from wbfs.devserver.data.paging import Pager
from wbfs.devserver.data.projects import Projects
from wbfs.devserver.data.runs import Runs
from wbfs.devserver.errors import (
    ApiError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from wbfs.devserver.objects.origin import Origin
from wbfs.devserver.objects.uploads import Uploads
from wbfs.devserver.resolvers import make_schema
from wbfs.devserver.resolvers.context import Context, ServerOptions, Services

KEPT_QUERIES = 200
"""Texts that are parsed and validated once."""
FEATURES = (
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "ARTIFACT_DIGEST_ALGORITHM",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "ARTIFACT_REGISTRY_SEARCH",
    "ARTIFACT_TAGS",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
    "CLIENT_IDS",
    "FILESTREAM_GZIP",
    "INCLUDE_ARTIFACT_TYPES_IN_REGISTRY_CREATION",
    "LARGE_FILENAMES",
    "MARK_RUN_FILES_UPLOADED",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """How the API behaves.

    admin_name, admin_api_key: the user that a database without users starts with, who
        may use the account administration; has no access to other users' projects.
    features: feature flags that differ from "on", by name.
    xxhash_digests_enabled: whether clients may log artifacts with XXH128 digests.
    storage_layout: "V2" or "V1", of the artifacts that are logged from now on.
    max_page_size: rows at most in a page of any listing.
    """

    admin_name: str = "admin"
    admin_api_key: str = field(repr=False)
    features: Mapping[str, bool] = field(default_factory=dict)
    xxhash_digests_enabled: bool = True
    storage_layout: str = "V2"
    max_page_size: int = 5000


def create_api(
    *,
    database: Database,
    origin: Origin,
    base_url: Callable[[], str] | str,
    settings: ApiSettings,
) -> Starlette:
    """Return the app.

    base_url: the URL under which clients reach it, or what returns that URL.
    """
    url = base_url if callable(base_url) else lambda: base_url
    return _Api(database, origin, url, settings).app()


class _Api:
    """The routes of the API port."""

    def __init__(
        self,
        database: Database,
        origin: Origin,
        base_url: Callable[[], str],
        settings: ApiSettings,
    ) -> None:
        pager = Pager(database, settings.max_page_size)
        accounts = Accounts(database)
        projects = Projects(database, accounts, pager)
        memberships = Memberships(database, pager)
        artifacts = Artifacts(database, origin, projects, memberships, pager)
        self._services = Services(
            database=database,
            origin=origin,
            accounts=accounts,
            projects=projects,
            runs=Runs(database, origin, pager),
            memberships=memberships,
            artifacts=artifacts,
            uploads=Uploads(database, origin, artifacts, memberships, settings.storage_layout),
            options=ServerOptions(
                features=dict.fromkeys(FEATURES, True) | dict(settings.features),
                xxhash_digests_enabled=settings.xxhash_digests_enabled,
            ),
            base_url=base_url,
        )
        self._schema = make_schema()
        self._checked = lru_cache(KEPT_QUERIES)(self._check)
        self._logger = logging.getLogger("wbfs.devserver.graphql")
        self._logger.addFilter(_is_defect)
        admin = {
            "name": settings.admin_name,
            "admin": True,
            "api_key": settings.admin_api_key,
        }
        accounts.apply({"users": [admin]})

    def app(self) -> Starlette:
        """Return the ASGI app."""
        run = "/files/{entity}/{project}/{run}"
        return Starlette(
            routes=[
                Route("/graphql", self.graphql, methods=["POST"]),
                Route(f"{run}/file_stream", self.file_stream, methods=["POST"]),
                Route(f"{run}/{{name:path}}", self.run_file),
                Route("/sdk/otel/{rest:path}", self.telemetry, methods=["POST"]),
                Route("/artifacts/{entity}/{digest}", self.artifact_v1),
                Route("/artifactsV2/{rest:path}", self.artifact_v2),
                Route("/_devserver/accounts", self.accounts, methods=["PUT"]),
            ],
            exception_handlers={ApiError: _refusal},
        )

    async def graphql(self, request: Request) -> Response:
        """Execute an operation; the operation's own errors answer 200."""
        data = await _json(request)
        status, result = await run_in_threadpool(self._execute, request, data)
        return JSONResponse(result, status_code=status)

    def _execute(self, request: Request, data: object) -> tuple[int, object]:
        if isinstance(data, dict) and not data.get("operationName"):
            data = {**data, "operationName": None}  # the SDK sends "" for none
        errors: list[GraphQLError] = []

        def parse_checked(_: object, data: dict[str, Any]) -> DocumentNode:
            document, found = self._checked(data["query"])
            errors.extend(found)
            return document

        with self._services.database.session():
            viewer = self._viewer(request)
            success, result = graphql_sync(
                self._schema,
                data,
                context_value=Context(viewer=viewer, services=self._services),
                query_parser=parse_checked,
                query_validator=lambda *_, **__: errors,
                logger=self._logger,
            )
        return (200 if success else 400), result

    def _check(self, query: str) -> tuple[DocumentNode, list[GraphQLError]]:
        """Parse and validate a query; clients send the same few all the time."""
        document = parse(query)
        return document, validate(self._schema, document)

    async def file_stream(self, request: Request) -> Response:
        """Take a run's lines: history, events, summary, console."""
        message = await _json(request)
        await run_in_threadpool(self._stream, request, message)
        return JSONResponse({})

    def _stream(self, request: Request, message: object) -> None:
        context = self._context(request)
        where = request.path_params
        if not isinstance(message, dict):
            raise InvalidRequest("a file_stream message is a JSON object")
        with self._services.database.transaction():
            run = context.run(where["entity"], where["project"], where["run"], Access.WRITE)
            self._services.runs.stream(run, message)

    async def telemetry(self, request: Request) -> Response:
        """Take the SDK's own metrics, and drop them."""
        async for _ in request.stream():
            pass
        return Response()

    def run_file(self, request: Request) -> Response:
        """Redirect to a run's file."""
        context = self._context(request)
        where = request.path_params
        run = context.run(where["entity"], where["project"], where["run"], Access.READ)
        file = self._services.runs.file(run, where["name"])
        if file is None:
            raise NotFound("file not found")
        return RedirectResponse(self._services.origin.get_url(file.object_key), 302)

    def artifact_v1(self, request: Request) -> Response:
        """Redirect to a file by its content, anywhere in an entity."""
        context = self._context(request)
        entity = self._services.accounts.entity(request.path_params["entity"])
        digest = _digest(request.path_params["digest"])
        found = (
            [] if entity is None else self._services.artifacts.objects_in_entity(entity.id, digest)
        )
        artifacts = self._services.artifacts
        access = [
            artifacts.access(context.viewer, artifacts.by_id(one.artifact_id)) for one in found
        ]
        return self._redirect(found, max(access, default=Access.NONE))

    def artifact_v2(self, request: Request) -> Response:
        """Redirect to a file of a collection, by birth artifact and content.

        The W&B protocol: region, entity, project, collection, artifact id (left out by
        clients of servers that don't know it), birth artifact id, digest, file name.
        """
        context = self._context(request)
        parts = request.path_params["rest"].split("/")
        if len(parts) not in (7, 8):
            raise NotFound("file not found")
        _, entity, project_name, collection_name, *artifact_ids, birth_id, digest, _ = parts
        services = self._services
        project = services.projects.visible(context.viewer, entity, project_name)
        if project is None:
            raise NotFound("file not found")
        collection = services.memberships.collection(project, collection_name)
        if collection is None:
            raise NotFound("file not found")
        found = services.artifacts.objects_in_collection(
            collection, decode_id("Artifact", birth_id), _digest(digest)
        )
        wanted = [decode_id("Artifact", artifact_id) for artifact_id in artifact_ids]
        return self._redirect(
            [entry for entry in found if not wanted or entry.artifact_id in wanted],
            services.projects.access(context.viewer, project),
        )

    def _redirect(self, found: list[Entry], access: Access) -> Response:
        if not found or access < Access.LIST:
            raise NotFound("file not found")
        if access < Access.READ:
            raise PermissionDenied("permission denied: no access to the content of artifacts")
        key = found[0].object_key
        assert key is not None
        return RedirectResponse(self._services.origin.get_url(key), 302)

    async def accounts(self, request: Request) -> Response:
        """Make users, teams and organizations exist; for administrators."""
        document = await _json(request)
        await run_in_threadpool(self._apply_accounts, request, document)
        return JSONResponse({})

    def _apply_accounts(self, request: Request, document: Any) -> None:
        if not self._context(request).user.admin:
            raise PermissionDenied("permission denied: not an administrator")
        self._services.accounts.apply(document)

    def _context(self, request: Request) -> Context:
        """Return the context of a request that needs a key."""
        viewer = self._viewer(request)
        if viewer is None:
            raise Unauthenticated("user is not logged in")
        return Context(viewer=viewer, services=self._services)

    def _viewer(self, request: Request) -> User | None:
        """Return who sends a request; None without a key. A wrong key is refused."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        viewer = self._services.accounts.authenticate(_api_key(header))
        if viewer is None:
            raise Unauthenticated("user is not logged in")
        return viewer


def _api_key(header: str) -> str:
    """Return the key in `Basic base64("api:" + key)`."""
    scheme, _, credentials = header.partition(" ")
    try:
        user, _, key = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unauthenticated("invalid Authorization header") from error
    if scheme.lower() != "basic" or user != "api":
        raise Unauthenticated("invalid Authorization header")
    return key


def _digest(digest_hex: str) -> str:
    """Return the base64 form of a digest in a URL."""
    try:
        return base64.b64encode(bytes.fromhex(digest_hex)).decode("ascii")
    except ValueError as error:
        raise NotFound("file not found") from error


async def _json(request: Request) -> Any:
    """Parse a JSON body, gzipped or not."""
    body = await request.body()
    try:
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        return msgspec.json.decode(body)
    except (OSError, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise InvalidRequest(f"invalid body: {error}") from error


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(
        {"data": None, "errors": [{"message": str(error)}]}, status_code=error.status
    )


def _is_defect(record: logging.LogRecord) -> bool:
    """Leave refusals, and queries that are none, out of the log: what answers them is right."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, GraphQLError):
        error = error.original_error
        return error is not None and not isinstance(error, ApiError)
    return not isinstance(error, ApiError)

"""References to s3://, read at the recorded version, or else while the ETag is the recorded one.

botocore, which the AWS command line and boto3 are made of, finds credentials and endpoint and signs
URLs; the bytes come by our own transport, since botocore's time-outs are one for all of a client's
requests and know nothing of a reader's deadline.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

from wbfs.model.entries import Reference
from wbfs.model.errors import AccessDenied, ReferenceUnsupported, RemoteError, WbfsError
from wbfs.model.lately import Lately
from wbfs.remote.http.bytes import ByteStream
from wbfs.remote.http.failures import without_secrets
from wbfs.remote.http.transport import CONNECT_TIMEOUT_S, SILENCE_S, Deadline, Transport
from wbfs.remote.references.objects import (
    LOOK_AGAIN_S,
    Kept,
    ObjectRequest,
    Refused,
    check_etag,
    error_of,
    folder,
    if_match,
    may_be_folder,
    missing_extra,
    name_of,
    open_object,
    refuse_folder,
    requests_by,
    split_name,
    timed_out,
)

log = logging.getLogger(__name__)

SCHEME = "s3://"
ATTEMPTS = 3
"""Times that botocore asks, where it asks itself: for credentials and for an object's versions."""
MOST_CLIENTS = 50
"""Regions of which botocore's client is kept, which is slow to make."""

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
# The servers that serve each bucket under a name of its own: AWS's, and CoreWeave's.
_BY_NAME = re.compile(
    r"s3[a-z0-9.-]*\.amazonaws\.com(\.cn)?"
    r"|cwlota\.com|cwobject\.com|(accel-)?object\.[a-z0-9-]+\.coreweave\.com"
)


class S3References:
    """Reads them from AWS, or from the store that AWS_ENDPOINT_URL and its kin name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._login = Kept(_log_in)
        self._anonymous = Kept(_anonymous)
        # What stores told: in which region a bucket is, and which version has a recorded ETag.
        self._regions: Lately[str, str] = Lately()
        self._versions: Lately[tuple[str, str], str] = Lately()

    @contextmanager
    def open(
        self, reference: Reference, *, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        """Ask for bytes of the recorded object.

        Raises ReferenceChanged, or ReferenceMissing where it is gone; AccessDenied;
        ReferenceUnsupported, also without botocore; RemoteError and its kinds.
        """
        self._transport.refuse_offline()
        name = reference.uri.removeprefix(SCHEME)
        refuse_folder(reference, name)
        bucket, key = split_name(reference, name)
        if not _BUCKET.fullmatch(bucket):
            raise ReferenceUnsupported(f"{name_of(reference)!r} names no bucket that S3 could have")
        with ExitStack() as stack:
            # At most the region is to be learnt, and the version.
            for may_learn in (True, True, False):
                attempts = self._requests(reference, bucket, key, deadline)
                request = open_object(
                    self._transport, attempts, start=start, stop=stop, deadline=deadline
                )
                try:
                    stream = stack.enter_context(request)
                    break
                except Refused as refused:
                    if not (may_learn and self._learn(refused, reference, bucket, key, deadline)):
                        if self._is_folder(refused, reference, bucket, key, deadline):
                            raise folder(reference) from None
                        raise _error(refused, reference) from None
            # Some stores know no If-Match.
            check_etag(stream, reference)
            yield stream

    def _requests(
        self, reference: Reference, bucket: str, key: str, deadline: Deadline
    ) -> Iterator[ObjectRequest]:
        region = self._regions.get(bucket) or ""
        known = self._versions.get((reference.uri, reference.token))
        version = reference.version_id or known or ""
        headers = if_match(reference)

        def request(login: _Signer | None) -> ObjectRequest:
            signer = login or self._anonymous.get(deadline)
            assert signer is not None
            url = signer.url(region, bucket, key, version)
            return ObjectRequest(url=url, headers=headers, signed=login is not None)

        return requests_by(self._login, request, deadline)

    def _learn(
        self, refused: Refused, reference: Reference, bucket: str, key: str, deadline: Deadline
    ) -> bool:
        """Whether a store's refusal led to something new to ask."""
        region = refused.region
        if refused.status in (301, 307, 400, 403) and region not in (
            "",
            self._regions.get(bucket),
        ):
            self._regions.put(bucket, region)
            return True
        if refused.status != 412 or reference.version_id:
            return False
        # The SDK didn't always record versions, and never that of an object older than versioning.
        found = self._version_with_etag(bucket, key, reference.token, deadline)
        if found:
            self._versions.put((reference.uri, reference.token), found)
        return bool(found)

    def _is_folder(
        self, refused: Refused, reference: Reference, bucket: str, key: str, deadline: Deadline
    ) -> bool:
        """Whether there are objects below what was refused."""
        if not may_be_folder(refused, reference):
            return False
        signer = self._login.get(deadline) or self._anonymous.get(deadline)
        assert signer is not None
        return signer.has_keys(self._regions.get(bucket) or "", bucket, f"{key}/")

    def _version_with_etag(self, bucket: str, key: str, etag: str, deadline: Deadline) -> str:
        signer = self._login.get(deadline) or self._anonymous.get(deadline)
        assert signer is not None
        for version in signer.versions(self._regions.get(bucket) or "", bucket, key):
            if deadline.expired:
                raise timed_out("listing the object's versions")
            # Other keys that begin alike come after all versions of this one.
            if version["Key"] != key:
                break
            if version["ETag"].strip('"') == etag:
                return str(version["VersionId"])
        return ""


class _Signer:
    """Makes URLs that give an object: with somebody's credentials, or without any."""

    def __init__(self, session: Any, *, signed: bool) -> None:
        self._session = session
        self._signed = signed
        self._lock = threading.Lock()
        self._clients: Lately[str, Any] = Lately(MOST_CLIENTS)

    def url(self, region: str, bucket: str, key: str, version: str) -> str:
        """Return an object's URL, signed for an hour. Raises AccessDenied, RemoteError."""
        parameters = {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})
        with _own_errors():
            client = self._client(region)
            return str(client.generate_presigned_url("get_object", Params=parameters))

    def versions(self, region: str, bucket: str, key: str) -> Iterator[dict[str, Any]]:
        """Yield the versions of the keys that begin so. Ends early where that is not allowed."""
        from botocore.exceptions import ClientError

        with _own_errors():
            pages = self._client(region).get_paginator("list_object_versions")
            try:
                for page in pages.paginate(Bucket=bucket, Prefix=key):
                    yield from page.get("Versions", ())
            except ClientError as error:
                log.info("can't list the versions of s3://%s/%s: %s", bucket, key, error)

    def has_keys(self, region: str, bucket: str, prefix: str) -> bool:
        """Whether there are keys that begin so; False too where that may not be asked."""
        from botocore.exceptions import ClientError

        with _own_errors():
            try:
                found = self._client(region).list_objects_v2(
                    Bucket=bucket, Prefix=prefix, MaxKeys=1
                )
            except ClientError as error:
                log.info("can't list s3://%s/%s: %s", bucket, prefix, error)
                return False
        return bool(found.get("Contents"))

    def _client(self, region: str) -> Any:
        """Return botocore's client; those can be shared by threads, but not made by several."""
        with self._lock:
            client = self._clients.get(region)
            if client is None:
                client = self._new_client(region, {})
                if _BY_NAME.fullmatch(urlsplit(client.meta.endpoint_url).hostname or ""):
                    # Else botocore signs for AWS's first server, of whatever region the bucket is.
                    client = self._new_client(region, {"addressing_style": "virtual"})
                self._clients.put(region, client)
            return client

    def _new_client(self, region: str, s3: dict[str, str]) -> Any:
        from botocore import UNSIGNED
        from botocore.config import Config

        return self._session.create_client(
            "s3",
            # As the SDK takes them; the other ways to name them are botocore's own.
            endpoint_url=os.environ.get("AWS_S3_ENDPOINT_URL") or None,
            region_name=region or os.environ.get("AWS_REGION") or None,
            config=Config(signature_version="s3v4" if self._signed else UNSIGNED, s3=s3),
        )


def _error(refused: Refused, reference: Reference) -> WbfsError:
    return error_of(
        refused,
        reference,
        with_login="the AWS credentials that were found don't allow it: ask its owner for"
        " s3:GetObject and s3:GetObjectVersion, or mount with AWS_PROFILE naming others",
        without="it is not public, and no AWS credentials were found, neither in"
        " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY nor in ~/.aws nor of this machine: run"
        " `aws configure`, or set AWS_PROFILE and mount again",
    )


def _log_in(deadline: Deadline) -> tuple[_Signer | None, float]:
    session = _session()
    with _own_errors():
        if session.get_credentials() is None:
            return None, LOOK_AGAIN_S
    return _Signer(session, signed=True), math.inf


def _anonymous(deadline: Deadline) -> tuple[_Signer, float]:
    return _Signer(_session(), signed=False), math.inf


def _session() -> Any:
    """Return a new botocore session. Raises ReferenceUnsupported where it is not installed."""
    try:
        import botocore.config
        import botocore.session
    except ImportError:
        raise missing_extra("s3", SCHEME) from None
    # Its debugging lines hold signatures and what the token services answer.
    logging.getLogger("botocore").setLevel(logging.INFO)
    session = botocore.session.Session()
    session.set_default_client_config(
        botocore.config.Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=SILENCE_S,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        )
    )
    return session


@contextmanager
def _own_errors() -> Iterator[None]:
    """Turn botocore's errors into ours: those of credentials, and those of the network."""
    from botocore import exceptions

    try:
        yield
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        said = without_secrets(str(error))
        raise RemoteError(f"can't ask AWS for what reading S3 needs: {said}") from None
    # EOFError: a profile wants a code of a device, and there is no terminal to ask for it.
    except (exceptions.BotoCoreError, exceptions.ClientError, EOFError, ValueError) as error:
        said = without_secrets(str(error)) or type(error).__name__
        raise AccessDenied(
            f"can't use the AWS settings that were found: {said}; correct them (AWS_PROFILE,"
            " ~/.aws; `aws sts get-caller-identity` tells when they are right)"
        ) from None

"""References to Azure Blob Storage, read at the recorded version or while the ETag is the same.

azure-identity finds the credentials and azure-storage-blob signs with an account's key; the bytes
come by our own transport, since that client's retries know nothing of a reader's deadline.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

from wbfs.model.entries import AZURE_URI, Reference
from wbfs.model.errors import AccessDenied, ReferenceUnsupported, RemoteError, WbfsError
from wbfs.model.lately import Lately
from wbfs.remote.http.bytes import ByteStream
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

API_VERSION = "2021-12-02"
SCOPE = "https://storage.azure.com/.default"
SIGNED_FOR = datetime.timedelta(hours=1)
RENEW_BEFORE_S = 300.0
"""Seconds before its end at which a token is no longer used."""
ATTEMPTS = 3
"""Times that Azure's client asks, where it asks itself: for a blob's versions."""

_CONTAINER = re.compile(r"[a-z0-9$-]{1,63}")


class AzureReferences:
    """Reads them from Azure, or from where AZURE_STORAGE_CONNECTION_STRING says the account is."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._token = Kept(_token)
        # The versions of recorded ETags, as the store told them.
        self._versions: Lately[tuple[str, str], str] = Lately()

    @contextmanager
    def open(
        self, reference: Reference, *, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        """Ask for bytes of the recorded blob.

        Raises ReferenceChanged, or ReferenceMissing where it is gone; AccessDenied;
        ReferenceUnsupported, also without Azure's libraries; RemoteError and its kinds.
        """
        self._transport.refuse_offline()
        blob = _blob(reference)
        with ExitStack() as stack:
            for may_learn in (True, False):
                attempts = self._requests(reference, blob, deadline)
                request = open_object(
                    self._transport, attempts, start=start, stop=stop, deadline=deadline
                )
                try:
                    stream = stack.enter_context(request)
                    break
                except Refused as refused:
                    if not (may_learn and self._learn(refused, reference, blob, deadline)):
                        if self._is_folder(refused, reference, blob, deadline):
                            raise folder(reference) from None
                        raise self._error(refused, reference, blob, deadline) from None
            check_etag(stream, reference)
            yield stream

    def _requests(
        self, reference: Reference, blob: _Blob, deadline: Deadline, *, conditional: bool = True
    ) -> Iterator[ObjectRequest]:
        known = self._versions.get((reference.uri, reference.token))
        version = reference.version_id or known or ""
        query = {"versionid": version} if version else {}
        headers = {"x-ms-version": API_VERSION} | (if_match(reference) if conditional else {})

        def request(token: _Token | None, signature: str = "") -> ObjectRequest:
            parts = [part for part in (urlencode(query, quote_via=quote), signature) if part]
            authorization = {"Authorization": f"Bearer {token.text}"} if token else {}
            return ObjectRequest(
                url=blob.url + ("?" + "&".join(parts) if parts else ""),
                headers=headers | authorization,
                signed=bool(token or signature),
            )

        signature = blob.account.signature(blob, version)
        if not signature:
            return requests_by(self._token, request, deadline)
        return iter([request(None, signature), request(None)])

    def _learn(
        self, refused: Refused, reference: Reference, blob: _Blob, deadline: Deadline
    ) -> bool:
        """Whether an older version has the recorded ETag; the SDK records none of a folder's."""
        if refused.status != 412 or reference.version_id:
            return False
        for name, etag, version in _versions(blob, self._credential(blob, deadline)):
            if deadline.expired:
                raise timed_out("listing the blob's versions")
            # Other blobs whose names begin alike come after all versions of this one.
            if name != blob.name:
                break
            if version and etag == reference.token:
                self._versions.put((reference.uri, reference.token), version)
                return True
        return False

    def _is_folder(
        self, refused: Refused, reference: Reference, blob: _Blob, deadline: Deadline
    ) -> bool:
        """Whether there are blobs below what was refused."""
        if not may_be_folder(refused, reference):
            return False
        below = replace(blob, name=f"{blob.name}/")
        return any(True for _ in _versions(below, self._credential(blob, deadline)))

    def _credential(self, blob: _Blob, deadline: Deadline) -> Any:
        """Return what Azure's own client takes to sign in."""
        token = None if blob.account.credential else self._token.get(deadline)
        return token.credential if token else blob.account.credential

    def _error(
        self, refused: Refused, reference: Reference, blob: _Blob, deadline: Deadline
    ) -> WbfsError:
        if refused.status == 412:
            # So it is too where there is nothing at all that could have the ETag.
            attempts = self._requests(reference, blob, deadline, conditional=False)
            try:
                with open_object(self._transport, attempts, start=0, stop=1, deadline=deadline):
                    pass
            except Refused as found:
                refused = found if found.status == 404 else refused
        account = blob.account.name
        return error_of(
            refused,
            reference,
            with_login="the Azure credentials that were found don't allow it: ask its owner for"
            " the role Storage Blob Data Reader, or use others",
            without=f"it is not public, and no Azure credentials were found: no key or signature"
            f" of {account!r} in AZURE_STORAGE_CONNECTION_STRING, nor in AZURE_STORAGE_KEY or"
            " AZURE_STORAGE_SAS_TOKEN with AZURE_STORAGE_ACCOUNT, nor a login that azure-identity"
            " finds: run `az login`, or set them and mount again",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """A storage account, with what the environment says of how to sign in to it."""

    name: str
    endpoint: str
    key: str = field(default="", repr=False)
    shared_signature: str = field(default="", repr=False)

    @property
    def credential(self) -> Any:
        """What Azure's own client takes; None without a key or signature."""
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

        if self.key:
            return AzureNamedKeyCredential(self.name, self.key)
        return AzureSasCredential(self.shared_signature) if self.shared_signature else None

    def signature(self, blob: _Blob, version: str) -> str:
        """Return a query by which the blob can be read, or nothing. Raises AccessDenied."""
        if not self.key:
            return self.shared_signature
        from azure.storage.blob import generate_blob_sas

        try:
            return str(
                generate_blob_sas(
                    self.name,
                    blob.container,
                    blob.name,
                    account_key=self.key,
                    permission="r",
                    expiry=datetime.datetime.now(datetime.UTC) + SIGNED_FOR,
                    version_id=version or None,
                )
            )
        except ValueError:
            raise AccessDenied(
                f"the key of the Azure storage account {self.name!r} that the environment has is no"
                " base64: copy it again, and mount again"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blob:
    """Where a blob is."""

    account: _Account
    container: str
    name: str

    @property
    def url(self) -> str:
        """Return its URL, unsigned."""
        return f"{self.account.endpoint}/{self.container}/{quote(self.name, safe='/~')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    text: str = field(repr=False)
    credential: Any


def _blob(reference: Reference) -> _Blob:
    """Return what a reference names. Raises ReferenceUnsupported, also without the libraries."""
    try:
        import azure.identity
        import azure.storage.blob  # noqa: F401
    except ImportError:
        raise missing_extra("azure", "Azure Blob Storage") from None
    match = AZURE_URI.fullmatch(reference.uri)
    assert match is not None
    refuse_folder(reference, match[4])
    container, name = split_name(reference, match[4])
    if not _CONTAINER.fullmatch(container):
        raise ReferenceUnsupported(
            f"{name_of(reference)!r} names no container that Azure could have"
        )
    return _Blob(
        account=_account(match[1].lower(), match[2].lower()), container=container, name=name
    )


def _account(host: str, name: str) -> _Account:
    """Return an account with what the variables of Azure's tools say, if they are of that one."""
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    found = {
        key.strip().lower(): value.strip()
        for key, _, value in (part.partition("=") for part in text.split(";"))
    }
    if found.get("accountname") == name:
        return _Account(
            name=name,
            endpoint=found.get("blobendpoint", f"https://{host}").rstrip("/"),
            key=found.get("accountkey", ""),
            shared_signature=found.get("sharedaccesssignature", "").removeprefix("?"),
        )
    own = os.environ.get("AZURE_STORAGE_ACCOUNT") == name
    return _Account(
        name=name,
        endpoint=f"https://{host}",
        key=os.environ.get("AZURE_STORAGE_KEY", "") if own else "",
        shared_signature=(
            os.environ.get("AZURE_STORAGE_SAS_TOKEN", "").removeprefix("?") if own else ""
        ),
    )


def _token(deadline: Deadline) -> tuple[_Token | None, float]:
    """Return a token of whoever is logged in, and for how many seconds it is good."""
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential

    credential = DefaultAzureCredential()
    try:
        found = credential.get_token(SCOPE)
    except ClientAuthenticationError:
        # The library logs what it tried.
        return None, LOOK_AGAIN_S
    good_s = max(found.expires_on - time.time() - RENEW_BEFORE_S, 1.0)
    return _Token(text=found.token, credential=credential), good_s


def _versions(blob: _Blob, credential: Any) -> Iterator[tuple[str, str, str]]:
    """Yield name, ETag and version of the blobs whose names begin so; ends where it may not."""
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.storage.blob import ContainerClient

    try:
        with ContainerClient(
            blob.account.endpoint,
            blob.container,
            credential=credential,
            connection_timeout=CONNECT_TIMEOUT_S,
            read_timeout=SILENCE_S,
            retry_total=ATTEMPTS - 1,
        ) as client:
            for found in client.list_blobs(name_starts_with=blob.name, include=["versions"]):
                yield found.name, str(found.etag).strip('"'), found.version_id or ""
    except HttpResponseError as error:
        log.info("can't list the versions of %s: %s", blob.url, error.reason)
    except ValueError as error:
        # As where a token would go to a server that is not asked by https.
        log.info("can't list the versions of %s: %s", blob.url, error)
    except AzureError as error:
        raise RemoteError(
            f"can't list the versions of {blob.url}: {type(error).__name__}; is the network up?"
        ) from error

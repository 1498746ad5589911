"""References: entries whose bytes live outside W&B; one module a scheme. Blocking code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from wbfs.model.entries import AZURE_URI, Reference
from wbfs.model.errors import ReferenceUnsupported
from wbfs.remote.http.bytes import ByteStream
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references.azure import AzureReferences
from wbfs.remote.references.file import FileReferences
from wbfs.remote.references.gcs import GcsReferences
from wbfs.remote.references.http import HttpReferences
from wbfs.remote.references.s3 import S3References


class ReferenceHandler(Protocol):
    """What gets the bytes of references of one scheme."""

    def open(
        self, reference: Reference, *, start: int, stop: int | None, deadline: Deadline
    ) -> AbstractContextManager[ByteStream]:
        """Ask for bytes of the object that the manifest recorded.

        Raises ReferenceChanged where it is no longer that one, ReferenceMissing where there is
        none; AccessDenied; ReferenceUnsupported; RemoteError and its kinds.
        """
        ...


class References:
    """The schemes that can be read."""

    def __init__(self, transport: Transport, *, files_allowed: bool = True) -> None:
        self.web = http = HttpReferences(transport)
        files = FileReferences(allowed=files_allowed)
        self._refusals: dict[str, Callable[[Reference], None]] = {
            "http": http.refuse,
            "https": http.refuse,
            "file": files.refuse,
        }
        self._azure = AzureReferences(transport)
        self._handlers: dict[str, ReferenceHandler] = {
            "http": http,
            "https": http,
            "file": files,
            "s3": S3References(transport),
            "gs": GcsReferences(transport),
        }

    def refuse(self, reference: Reference) -> None:
        """Raise AccessDenied for a reference whose URI itself says that it may not be read."""
        refusal = self._refusals.get(_scheme(reference.uri))
        if refusal is not None:
            refusal(reference)

    def for_uri(self, uri: str) -> ReferenceHandler:
        """Return the handler of a URI's scheme, or its host. Raises ReferenceUnsupported."""
        if AZURE_URI.fullmatch(uri):
            return self._azure
        scheme = _scheme(uri)
        handler = self._handlers.get(scheme)
        if handler is None:
            raise ReferenceUnsupported(
                f"references to {scheme}:// can't be read by this version of wbfs;"
                " artifact.download() of the wandb SDK may"
            )
        return handler


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].lower()

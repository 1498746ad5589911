"""The file origin's objects: bytes on disk by key, reached through signed URLs that expire.

It owns the objects, the parts of uploads in progress and the URLs; `files` serves them over HTTP.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from wbfs.devserver.errors import InvalidRequest
from wbfs.devserver.objects.signing import Refusal, Signer

URL_LIFETIME_S = 3600.0
MAX_NAME_BYTES = 255

_COPY_BYTES = 1 << 20


class MultipartError(InvalidRequest):
    """An upload's parts are not those that were announced."""


class Origin:
    """The file origin: objects on disk, reached through signed URLs that expire.

    A key is an object's name, with `/` between its parts. Every method that takes one raises
    InvalidRequest for a key that can't be an object's.
    """

    def __init__(
        self, folder: Path, *, base_url: Callable[[], str], lifetime_s: float = URL_LIFETIME_S
    ) -> None:
        """Open, or make, the folder; the secret that signs URLs is kept in it.

        base_url: gives the origin's URL, which is known once its port is. lifetime_s: seconds that
        a URL is good for; may be changed at any time.
        """
        self._objects = folder / "objects"
        self._etags = folder / "etags"
        self._uploads = folder / "uploads"
        for path in (self._objects, self._etags, self._uploads):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._base_url = base_url
        self.lifetime_s = lifetime_s
        self._signer = Signer(folder / "secret")

    def get_url(self, key: str) -> str:
        """Return a signed URL to GET or HEAD the object."""
        return self._url("GET", key)

    def put_url(self, key: str) -> str:
        """Return a signed URL to PUT the object."""
        return self._url("PUT", key)

    def refusal(self, method: str, key: str, query: Mapping[str, str]) -> Refusal | None:
        """Return why a request with this query is refused; None if it isn't."""
        return self._signer.refusal(method, key, query)

    def _url(self, method: str, key: str, *, upload: str = "", part: int = 0) -> str:
        _checked(key)
        query = self._signer.sign(method, key, lifetime_s=self.lifetime_s, upload=upload, part=part)
        # Not `urlencode`, which takes as long as all else.
        given = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        return f"{self._base_url()}/{quote(key)}?{given}"

    def path(self, key: str) -> Path:
        """Return where the object's bytes are, or would be."""
        return self._objects / _checked(key)

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self.path(key).is_file()

    def size(self, key: str) -> int:
        """Return the object's size in bytes. Raises FileNotFoundError."""
        return self.path(key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        self.path(key).unlink(missing_ok=True)
        (self._etags / key).unlink(missing_ok=True)

    def etag(self, key: str, found: os.stat_result) -> str:
        """Return the ETag of the object whose file is `found`, without quotes.

        It is what the upload was answered with, unless something else has changed the file since.
        """
        stamp = f"{found.st_mtime_ns:x}-{found.st_size:x}"
        try:
            stored, _, stored_stamp = (self._etags / _checked(key)).read_text().partition(" ")
        except FileNotFoundError:
            return stamp
        return stored if stored_stamp == stamp else stamp

    def store_etag(self, key: str, etag: str, found: os.stat_result) -> None:
        """Remember the ETag of the object whose file is `found`."""
        path = self._etags / _checked(key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(f"{etag} {found.st_mtime_ns:x}-{found.st_size:x}")

    def receive(self, path: Path) -> Receiving:
        """Return what takes an object's, or a part's, bytes and then gives them their name."""
        return Receiving(path)

    def start_multipart(self, key: str, parts: int) -> tuple[str, list[str]]:
        """Return an upload's id and a signed PUT URL for each of its parts, counted from 1."""
        upload = secrets.token_hex(16)
        urls = [self._url("PUT", key, upload=upload, part=part) for part in range(1, parts + 1)]
        (self._uploads / upload).mkdir(mode=0o700)
        (self._uploads / upload / "parts").write_text(str(parts))
        return upload, urls

    def part_path(self, upload_id: str, part: int) -> Path:
        """Return where an upload's part is, or would be. Raises MultipartError."""
        folder = self._uploads / upload_id
        if not upload_id.isalnum() or not folder.is_dir():
            raise MultipartError("there is no such upload")
        return folder / str(part)

    def complete_multipart(self, key: str, upload_id: str, etags: Mapping[int, str]) -> None:
        """Join an upload's parts; `etags` are what their PUTs were answered with, by part.

        Raises MultipartError if a part is missing or another than was uploaded.
        """
        parts = sorted(etags)
        paths = [self.part_path(upload_id, part) for part in parts]
        announced = int((self._uploads / upload_id / "parts").read_text())
        if parts != list(range(1, announced + 1)):
            raise MultipartError(f"the upload has {announced} parts, and others were named")
        digests = hashlib.md5(usedforsecurity=False)
        with self.receive(self.path(key)) as target:
            for part, path in zip(parts, paths, strict=True):
                if not path.is_file():
                    raise MultipartError(f"part {part} was never uploaded")
                with path.open("rb") as source:
                    digest = hashlib.file_digest(source, "md5")
                    if digest.hexdigest() != etags[part].strip('"'):
                        raise MultipartError(f"part {part} is another than was uploaded")
                    digests.update(digest.digest())
                    source.seek(0)
                    shutil.copyfileobj(source, target.file, _COPY_BYTES)
            # As in an object store: no MD5 of the whole, and it says of how many parts it is.
            self.store_etag(key, f"{digests.hexdigest()}-{announced}", target.keep())
        shutil.rmtree(self._uploads / upload_id)


class Receiving:
    """A file that appears whole, when it is kept, or not at all."""

    def __init__(self, target: Path) -> None:
        self._target = target
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=target.parent, prefix=".receiving-")
        self._temporary = Path(name)
        self.file = os.fdopen(fd, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self._temporary.unlink(missing_ok=True)

    def keep(self) -> os.stat_result:
        """Give the bytes their name; return the file's state."""
        self.file.flush()
        found = os.fstat(self.file.fileno())
        self._temporary.rename(self._target)
        return found


def _checked(key: str) -> str:
    """Return the key if it names a file below a folder, and that one only."""
    for name in key.split("/"):
        too_long = len(os.fsencode(name)) > MAX_NAME_BYTES
        if name in ("", ".", "..") or "\0" in name or too_long or name.startswith(".receiving-"):
            raise InvalidRequest("not an object's key")
    return key

"""The file origin's objects: bytes on disk by key, reached through signed URLs that expire."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

from wbfs.devserver.errors import InvalidRequest

URL_LIFETIME_S = 3600.0


class MultipartError(InvalidRequest):
    """An upload's parts are not those that were announced."""


class Origin:
    """The objects below one folder. Keys are `/`-separated."""

    def __init__(
        self, folder: Path, *, base_url: Callable[[], str], lifetime_s: float = URL_LIFETIME_S
    ) -> None:
        """Open, or make, the folder; the secret that signs URLs is kept in it.

        base_url: gives the origin's URL, which is known once its port is.
        lifetime_s: seconds that a URL is good for; may be changed at any time.
        """
        self._objects = folder / "objects"
        self._uploads = folder / "uploads"
        for path in (self._objects, self._uploads):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._base_url = base_url
        self.lifetime_s = lifetime_s
        self._secret = _load_secret(folder / "secret")

    def get_url(self, key: str) -> str:
        """Return a signed URL to GET or HEAD the object."""
        return self._sign("GET", key)

    def put_url(self, key: str) -> str:
        """Return a signed URL to PUT the object."""
        return self._sign("PUT", key)

    def _sign(self, method: str, key: str, upload: str = "", part: int = 0) -> str:
        expires = f"{time.time() + self.lifetime_s:.3f}"
        query = {"X-Expires": expires}
        if upload:
            query |= {"uploadId": upload, "partNumber": str(part)}
        query["X-Signature"] = self._signature(method, key, expires, upload, str(part))
        return f"{self._base_url()}/{quote(key)}?{urlencode(query)}"

    def _signature(self, *parts: str) -> str:
        return hmac.new(self._secret, "\n".join(parts).encode(), hashlib.sha256).hexdigest()

    def refusal(self, method: str, key: str, query: Mapping[str, str]) -> str:
        """Return why a request is refused, in a store's words, or the empty text."""
        expires = query.get("X-Expires", "")
        expected = self._signature(
            "GET" if method == "HEAD" else method,
            key,
            expires,
            query.get("uploadId", ""),
            query.get("partNumber", "0"),
        )
        if not hmac.compare_digest(expected.encode(), query.get("X-Signature", "").encode()):
            return "SignatureDoesNotMatch"
        return "ExpiredToken" if float(expires) < time.time() else ""

    def path(self, key: str) -> Path:
        """Return where an object's bytes are, or would be. Raises InvalidRequest."""
        path = self._objects / key
        if not key or ".." in key.split("/") or "\0" in key or path == self._objects:
            raise InvalidRequest(f"{key!r} is no object's key")
        if not path.is_relative_to(self._objects):
            raise InvalidRequest(f"{key!r} is no object's key")
        return path

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self.path(key).is_file()

    def size(self, key: str) -> int:
        """Return the object's size in bytes. Raises FileNotFoundError."""
        return self.path(key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        self.path(key).unlink(missing_ok=True)

    def start_multipart(self, key: str, parts: int) -> tuple[str, list[str]]:
        """Return an upload's id and a signed URL for each of its parts, which count from 1."""
        upload = secrets.token_hex(16)
        (self._uploads / upload).mkdir(mode=0o700)
        return upload, [self._sign("PUT", key, upload, part + 1) for part in range(parts)]

    def part_path(self, upload: str, part: int) -> Path:
        """Return where an upload's part is, or would be. Raises InvalidRequest."""
        if not upload.isalnum() or not (self._uploads / upload).is_dir():
            raise InvalidRequest("no such upload")
        return self._uploads / upload / str(part)

    def complete_multipart(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """Join an upload's parts; `etags` are their PUTs' answers. Raises MultipartError."""
        paths = [self.part_path(upload, part) for part in sorted(etags)]
        with self.receive(self.path(key)) as target:
            for path, part in zip(paths, sorted(etags), strict=True):
                if not path.is_file():
                    raise MultipartError(f"part {part} was never uploaded")
                with path.open("rb") as source:
                    if hashlib.file_digest(source, "md5").hexdigest() != etags[part].strip('"'):
                        raise MultipartError(f"part {part} is another one")
                    source.seek(0)
                    shutil.copyfileobj(source, target.file, 1 << 20)
            target.keep()
        shutil.rmtree(self._uploads / upload)

    def receive(self, path: Path) -> Receiving:
        """Return what takes an object's, or a part's, bytes and then gives them their name."""
        return Receiving(path)


class Receiving:
    """A file that appears whole, when it is kept, or not at all."""

    def __init__(self, target: Path) -> None:
        self._target = target
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=target.parent, prefix=".receiving-")
        self._temporary = Path(name)
        self.file = os.fdopen(fd, "wb")

    def __enter__(self) -> Receiving:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self._temporary.unlink(missing_ok=True)

    def keep(self) -> None:
        """Give the bytes their name."""
        self.file.flush()
        self._temporary.rename(self._target)


def _load_secret(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        secret = secrets.token_bytes(32)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(secret)
        return secret

"""A web server with the habits of many: the first part of a path says which, as `nohead+auth`.

plain       ranges, HEAD, lengths, strong ETags
norange     sends all, whatever part it is asked for
oddrange    sends less than the part that it is asked for
no405       refuses whoever asks for a part, by that status; likewise no400, no403 and no501
changed     says 203, as a proxy that may have changed something
known       refuses whoever doesn't ask as the SDK does
unsaid      sends the part that it is asked for, and doesn't say which it is
nohead      refuses HEAD
wronghead   answers HEAD with the length of something else; but of names that begin with "bare"
packedonly  has everything compressed only, and refuses who wants nothing compressed
deafhead    never answers HEAD
silent      answers nothing for names that begin with "silent"
moved       redirects to where the file is on the same server
away        redirects to another server, which wants no password
slow        takes a moment for an answer
zerohead    answers HEAD as if there were no bytes
nolength    sends in chunks, without saying how many bytes there are
close       ends an answer by closing the connection, likewise
noetag      has no ETags
apache      compresses where it may, as Apache's mod_deflate
nginx       compresses where it may, as nginx
variants    keeps a compressed variant beside the file, with an ETag of its own, as nginx's
            gzip_static; but of names that begin with "bare"
cuts        ends its first whole answer half-way
stored      keeps the file compressed, and says so
auth        wants a user and a password
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler

from object_stores import serving

USER, PASSWORD = "some one", "p@ss:w/rd"
LOGIN = "some%20one:p%40ss:w%2Frd"
"""The same as they stand in a URL."""
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE = 1 << 16
_REFUSALS = {f"no{status}": status for status in (400, 403, 405, 501)}


@dataclass
class Asked:
    """A request, and how many bytes of a body it was sent."""

    method: str
    habits: frozenset[str]
    name: str
    headers: dict[str, str]
    sent: int = 0


@dataclass
class Web:
    """The server: its files by name, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    # Requests that are slowly answered now, and how many they were at most.
    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def url_of(self, habits: str, name: str) -> str:
        """Return where a file is, of a server with those habits."""
        login = f"{LOGIN}@" if "auth" in habits else ""
        return f"http://{login}{self.url.partition('//')[2]}/{habits}/{name}"

    def requests(self, habits: str, name: str) -> list[Asked]:
        """Return the requests for a file of a server with exactly those habits."""
        return [
            one
            for one in list(self.asked)
            if one.habits == frozenset(habits.split("+")) and one.name == name
        ]


@contextmanager
def web_server() -> Iterator[Web]:
    """Run one."""
    web = Web()

    class Handler(_Handler):
        pass

    Handler.web = web
    with serving(Handler) as web.url:
        try:
            yield web
        finally:
            web.over.set()


@cache
def packed(content: bytes) -> bytes:
    """Return a file as it is when it is compressed."""
    return gzip.compress(content, 1, mtime=0)


@cache
def tag_of(content: bytes) -> str:
    """Return what an ETag is made of."""
    return hashlib.md5(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        _, habits_text, name = self.path.split("/", 2)
        habits = frozenset(habits_text.split("+"))
        headers = {key.lower(): value for key, value in self.headers.items()}
        asked = Asked(self.command, habits, name, headers)
        self.web.asked.append(asked)
        if "slow" in habits:
            self._take_a_moment()
        is_deaf = "deafhead" in habits and self.command == "HEAD"
        if is_deaf or "silent" in habits and name.startswith("silent"):
            self.web.over.wait(60)
            return
        if habits & {"moved", "away"}:
            there = "+".join(sorted(habits - {"moved", "away", "auth"})) or "plain"
            port = self.server.server_address[1]
            host = f"http://localhost:{port}" if "away" in habits else ""
            self._refuse(302, Location=f"{host}/{there}/{name}")
            return
        content = self.web.files.get(name)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if content is None:
            self._refuse(404)
        elif "auth" in habits and headers.get("authorization") != f"Basic {login}":
            self._refuse(401)
        elif "packedonly" in habits and "gzip" not in headers.get("accept-encoding", ""):
            self._refuse(406)
        elif "known" in habits and "python-requests" not in headers.get("user-agent", ""):
            self._refuse(403)
        elif "range" in headers and (refusals := habits & _REFUSALS.keys()):
            self._refuse(_REFUSALS[min(refusals)])
        elif "nohead" in habits and self.command == "HEAD":
            self._refuse(405)
        else:
            self._answer(asked, content)

    do_HEAD = do_GET

    def _take_a_moment(self) -> None:
        with self.web.lock:
            self.web.now += 1
            self.web.most = max(self.web.most, self.web.now)
        time.sleep(0.3)
        with self.web.lock:
            self.web.now -= 1

    def _refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, asked: Asked, content: bytes) -> None:
        habits = asked.habits
        tag = tag_of(content)
        etag = f'"{tag}"'
        answers: dict[str, str] = {}
        no_length = bool(habits & {"nolength", "close"})
        may_pack = "gzip" in asked.headers.get("accept-encoding", "")
        ranged = not (habits & {"norange", "nolength", "close"})
        has_variant = "variants" in habits and not asked.name.startswith("bare")
        if may_pack and (has_variant or habits & {"apache", "nginx", "packedonly"}):
            content, ranged = packed(content), False
            answers["Content-Encoding"] = "gzip"
            answers["Vary"] = "Accept-Encoding"
            if "apache" in habits:
                etag = f'"{tag}-gzip"'
            elif "nginx" in habits:
                etag, no_length = f'W/"{tag}"', True
            else:
                etag = f'"{tag_of(content)}"'
        elif "stored" in habits:
            content = packed(content)
            answers["Content-Encoding"] = "gzip"
        if "noetag" not in habits:
            answers["ETag"] = etag
        status = 203 if "changed" in habits else 200
        wanted = _RANGE.fullmatch(asked.headers.get("range", ""))
        if wanted and ranged:
            size = len(content)
            start, stop = int(wanted[1]), min(int(wanted[2] or size), size - 1) + 1
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if "oddrange" in habits:
                stop = min(stop, start + 1000)
            status, content = 206, content[start:stop]
            if "unsaid" not in habits:
                answers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._send(asked, status, answers, content, no_length=no_length)

    def _send(
        self,
        asked: Asked,
        status: int,
        answers: dict[str, str],
        content: bytes,
        *,
        no_length: bool,
    ) -> None:
        in_chunks = no_length and "close" not in asked.habits
        is_bare = asked.name.startswith("bare")
        self.send_response(status)
        if in_chunks:
            answers["Transfer-Encoding"] = "chunked"
        elif no_length:
            answers["Connection"] = "close"
        elif self.command == "HEAD" and "zerohead" in asked.habits:
            answers["Content-Length"] = "0"
        elif self.command == "HEAD" and "wronghead" in asked.habits and not is_bare:
            answers["Content-Length"] = "9"
        else:
            answers["Content-Length"] = str(len(content))
        for name, value in answers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if "cuts" in asked.habits and "range" not in asked.headers:
            asks = self.web.requests("+".join(asked.habits), asked.name)
            if (
                len([one for one in asks if one.method == "GET" and "range" not in one.headers])
                == 1
            ):
                content, self.close_connection = content[: len(content) // 2], True
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if in_chunks else piece)
            asked.sent += len(piece)
        if in_chunks:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

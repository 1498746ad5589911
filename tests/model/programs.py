"""The processes that read: one that does what it is told, and any number that read at random."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

READER = (sys.executable, str(Path(__file__).parent / "reader.py"))
ENDS_WITHIN_S = 50.0


class Hangs(Exception):
    """A program has not answered in time."""


class Program:
    """A running reader."""

    def __init__(self, *arguments: str | Path) -> None:
        self._process = subprocess.Popen(
            [*READER, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._text = b""
        self._heard = time.monotonic()

    def send(self, requests: Iterable[dict[str, Any]]) -> None:
        """Have it do something without waiting for any of its answers."""
        self._requests.write(b"".join(json.dumps(request).encode() + b"\n" for request in requests))

    def ask(self, request: dict[str, Any], *, within_s: float) -> dict[str, Any]:
        """Have it do something, and return its answer. Raises Hangs."""
        self.send([request])
        deadline = time.monotonic() + within_s
        while (left := deadline - time.monotonic()) > 0:
            for answer in self._read(left):
                return answer
        raise Hangs(f"no answer within {within_s} s to {request}; it waits in {self.waits_in()}")

    def told(self, *, within_s: float) -> Iterator[dict[str, Any]]:
        """Yield what it told since the last time. Raises Hangs where that is too long ago."""
        yield from self._read(0)
        if time.monotonic() - self._heard > within_s:
            raise Hangs(f"a reader said nothing for {within_s} s; it waits in {self.waits_in()}")

    def _read(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        while select.select([self._answers], [], [], timeout_s)[0]:
            more = os.read(self._answers.fileno(), 1 << 16)
            assert more, f"a reader ended with {self._process.wait(ENDS_WITHIN_S)}"
            self._heard = time.monotonic()
            *lines, self._text = (self._text + more).split(b"\n")
            yield from map(json.loads, lines)
            timeout_s = 0

    def waits_in(self) -> str:
        """Return where in the kernel it is."""
        return Path(f"/proc/{self._process.pid}/wchan").read_text()

    def end(self) -> None:
        """End it; what waits in a mount can't end before the mount does."""
        self._process.kill()
        self._process.wait(ENDS_WITHIN_S)
        self._requests.close()
        self._answers.close()

"""Takes a JSON object apart into its members, of which any may be no JSON at all.

A decoder gives up at the first fault, however deep inside it is. Here nothing is decoded: strings
and brackets alone say where a member ends, and nesting costs neither stack nor memory.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from typing import NamedTuple

# Each matches from where it is tried on, a string without an end up to the end of all: no byte is
# looked at twice.
_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
_SCALAR = re.compile(rb'[^][{}",: \t\r\n]++')


class Member(NamedTuple):
    """A member's name as it is written, quotes included, and where its value is."""

    name: bytes
    start: int
    stop: int


def members(data: bytes | mmap.mmap, start: int, stop: int) -> Iterator[Member]:
    """Yield the members of the object that `data` is from `start` to before `stop`.

    Raises ValueError where it is no object, or is cut.
    """
    text = _Text(data, start, stop)
    text.take(b"{")
    is_last = text.comes(b"}")
    while not is_last:
        name = text.take_string()
        text.take(b":")
        yield Member(name, *text.take_value())
        is_last = text.comes(b"}")
        if not is_last:
            text.take(b",")
    text.take(b"}")
    text.take_end()


class _Text:
    """A JSON text, of which one thing after the other is taken; space in between doesn't count.

    What takes something raises ValueError where it isn't there.
    """

    def __init__(self, data: bytes | mmap.mmap, start: int, stop: int) -> None:
        self._data = data
        self._at = start
        self._stop = stop

    def comes(self, character: bytes) -> bool:
        """Whether that is the next character."""
        return self._next() == character

    def take(self, character: bytes) -> None:
        if self._next() != character:
            raise self._error(character.decode())
        self._at += 1

    def take_string(self) -> bytes:
        self._next()
        match = _STRING.match(self._data, self._at, self._stop)
        if match is None or not match[1]:
            raise self._error('"', is_cut=match is not None)
        self._at = match.end()
        return match[0]

    def take_value(self) -> tuple[int, int]:
        """Return where it starts and stops."""
        first = self._next()
        start = self._at
        if first == b'"':
            self.take_string()
        elif first in (b"{", b"["):
            self._take_brackets()
        else:
            match = _SCALAR.match(self._data, start, self._stop)
            if match is None:
                raise self._error("value")
            self._at = match.end()
        return start, self._at

    def take_end(self) -> None:
        if self._next():
            raise self._error("end")

    def _next(self) -> bytes:
        """Go to the next character that is no space, and return it; nothing at the end."""
        match = _SPACE.match(self._data, self._at, self._stop)
        assert match is not None
        self._at = match.end()
        return self._data[self._at : min(self._at + 1, self._stop)]

    def _take_brackets(self) -> None:
        depth = 0
        for match in _TOKEN.finditer(self._data, self._at, self._stop):
            token = self._data[match.start()]
            if token in b"{[":
                depth += 1
            elif token in b"}]":
                depth -= 1
            if depth == 0:
                self._at = match.end()
                return
        raise self._error("}", is_cut=True)

    def _error(self, expected: str, *, is_cut: bool = False) -> ValueError:
        if is_cut or self._at >= self._stop:
            return ValueError("it is cut")
        return ValueError(f"it has no {expected} at byte {self._at}")

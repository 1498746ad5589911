"""What the SDK wrote down about a run: `run-<id>.wandb`, its transaction log.

After a header of 7 bytes it has LevelDB's blocks of 32 KiB, and in those records of protobuf, one
of which is about the run. Here is no more of that than it takes to find entity, project and id.
The file is foreign input. Blocking code.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from wbfs.model.errors import NameInvalid
from wbfs.model.runs import Run, parse_run

MAX_BYTES = 4 << 20
"""What of a log is read: the run is its first or second record."""
MAGIC = b":W&B"
HEADER_BYTES = 7
BLOCK_BYTES = 32 << 10
_CHUNK = struct.Struct("<IHB")
_NUMBER = re.compile(r"-\d+(?=\.wandb$)")
_FULL, _FIRST, _LAST = 1, 2, 4
_RUN_FIELD = 17
_RUN_ID, _ENTITY, _PROJECT = 1, 2, 3


class _Malformed(Exception):
    """It is not as the SDK writes it, or not to its end yet."""


def open_log(path: str) -> BinaryIO:
    """Open a log whose name was taken from that of its folder. Raises OSError.

    The folder's has a number behind the run's id where the SDK found one of the same second.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return open(_NUMBER.sub("", path), "rb")


def read_run(log: BinaryIO, *, default_entity: str) -> Run | None:
    """Return whose log it is; None where that can't be told, maybe not yet.

    The entity is empty in a log whose program named none: it is the user's default then.
    """
    try:
        log.seek(0)
        data = log.read(MAX_BYTES)
    except OSError:
        return None
    try:
        for record in _records(data):
            run = _fields(record).get(_RUN_FIELD)
            if run is not None:
                fields = _fields(run)
                names = (fields.get(of, b"").decode() for of in (_ENTITY, _PROJECT, _RUN_ID))
                entity, project, name = names
                return parse_run(f"{entity or default_entity}/{project}/{name}")
    except (_Malformed, UnicodeDecodeError, NameInvalid):
        return None
    return None


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the records; one that goes on behind the end is left out."""
    if not data.startswith(MAGIC):
        raise _Malformed
    position, record = HEADER_BYTES, b""
    while True:
        left_in_block = BLOCK_BYTES - position % BLOCK_BYTES
        if left_in_block < _CHUNK.size:
            position += left_in_block
        if position + _CHUNK.size > len(data):
            return
        _, size, kind = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        chunk = data[position : position + size]
        position += size
        if len(chunk) < size:
            return
        record = chunk if kind in (_FULL, _FIRST) else record + chunk
        if kind in (_FULL, _LAST):
            yield record


def _fields(message: bytes) -> dict[int, bytes]:
    """Return the fields of a message that are texts, bytes or messages, by number."""
    fields = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        match tag & 7:
            case 0:
                _, position = _varint(message, position)
            case 1:
                position += 8
            case 2:
                size, position = _varint(message, position)
                if position + size > len(message):
                    raise _Malformed
                fields[tag >> 3] = message[position : position + size]
                position += size
            case 5:
                position += 4
            case _:
                raise _Malformed
    return fields


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return a number and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Malformed

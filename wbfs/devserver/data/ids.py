"""The API's opaque ids and paging cursors.

The W&B protocol: an id is the base64 of `Kind:number`. `wandb-artifact://`
references carry the hexadecimal form of that text, so an artifact's id has to
survive decoding and encoding.
"""

from __future__ import annotations

import base64
import binascii

from wbfs.devserver.errors import InvalidRequest


def encode_id(kind: str, number: int) -> str:
    """Return the opaque id of row `number`."""
    return base64.b64encode(f"{kind}:{number}".encode()).decode("ascii")


def decode_id(kind: str, text: str) -> int | None:
    """Return the row number in an opaque id of `kind`; None if it isn't one."""
    try:
        found, _, number = base64.b64decode(text, validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return int(number) if found == kind and number.isdecimal() else None


def encode_cursor(position: str) -> str:
    """Return the opaque cursor of a place in a listing."""
    return base64.urlsafe_b64encode(f"after:{position}".encode()).decode("ascii")


def decode_cursor(text: str) -> str:
    """Return the place that a cursor stands for; raises InvalidRequest for a foreign cursor."""
    try:
        kind, _, position = base64.urlsafe_b64decode(text).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidRequest("invalid cursor") from error
    if kind != "after":
        raise InvalidRequest("invalid cursor")
    return position

"""What a large file's own index says of its parts. Pure.

safetensors has it in front: the length of the header in eight bytes, little-endian, and the header,
which is JSON and says of each tensor where its bytes are, counted from the header's end.
"""

from __future__ import annotations

import json

LENGTH_BYTES = 8
HEADER_BEGINNING = LENGTH_BYTES + 1
"""Bytes that tell whether there is a header."""
LARGEST_HEADER = 16 << 20
"""Bytes of a header that are looked at: some hundred thousand tensors."""


def header_stop(beginning: bytes) -> int | None:
    """Return where the header ends of a file that begins so; None where it has none."""
    if beginning[LENGTH_BYTES:HEADER_BEGINNING] != b"{":
        return None
    length = int.from_bytes(beginning[:LENGTH_BYTES], "little")
    return LENGTH_BYTES + length if length <= LARGEST_HEADER else None


def parts_of(header: bytes, size: int) -> list[tuple[int, int]]:
    """Return the extents of a file of `size` bytes, in order and without a gap: header, tensors.

    `header` is all of it, from the file's beginning. What is no index of this file has no parts.
    """
    try:
        tensors = json.loads(header[LENGTH_BYTES:])
        starts = {
            len(header) + int(tensor["data_offsets"][0])
            for name, tensor in tensors.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return []
    starts |= {0, len(header)}
    if not all(0 <= start <= size for start in starts):
        return []
    bounds = sorted(starts | {size})
    return list(zip(bounds, bounds[1:], strict=False))

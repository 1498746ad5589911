"""A safetensors file for tests: a header, and tensors one behind the other."""

from __future__ import annotations

import json
from collections.abc import Iterable


def header_of(lengths: Iterable[int]) -> tuple[bytes, int]:
    """Return the header of a file with tensors of these lengths, and the file's size, in bytes."""
    tensors: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for number, length in enumerate(lengths):
        offsets = [end, end + length]
        tensors[f"layer.{number}"] = {"dtype": "U8", "shape": [length], "data_offsets": offsets}
        end += length
    text = json.dumps(tensors).encode()
    header = len(text).to_bytes(8, "little") + text
    return header, len(header) + end

"""What is in the files of the model: bytes made from a seed, so that anyone can make them again."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

MIB = 1 << 20
LARGE_OVER = 4 * MIB
"""Files of more bytes come in ranges, and may be served before they were checked."""
SMALL_SIZES = (0, 1, 4096, 20_000)
BOUNDARY_SIZES = (LARGE_OVER - 1, LARGE_OVER, LARGE_OVER + 1)
LARGE_SIZES = (6 * MIB, 20 * MIB)
ODD_NAMES = ("with space.bin", "naïve 日本語.bin", "line\nbreak.bin", "-dash", "odd/#%?&.bin")


class Content(NamedTuple):
    """The bytes of a file, by what they are made from; `size` is in bytes."""

    seed: int
    size: int

    @property
    def is_large(self) -> bool:
        """Whether its bytes may be served before they were checked."""
        return self.size > LARGE_OVER


@cache
def data(content: Content) -> bytes:
    """Return the bytes themselves."""
    return random.Random(f"{content.seed}").randbytes(content.size)


@cache
def digest(content: Content) -> str:
    """Return the digest that a manifest has for it."""
    return base64.b64encode(hashlib.md5(data(content)).digest()).decode()


Files = Mapping[str, Content]
"""The files of a version by their path in it."""


def files_of_version(seed: int, small: int = 40) -> dict[str, Content]:
    """Return the files of one version: most are also those of other versions.

    The sizes are those at which something changes; contents stand under several names.
    """
    chance = random.Random(seed)
    files = {
        f"small/{number:03}.bin": Content(chance.randrange(100), chance.choice(SMALL_SIZES))
        for number in range(small)
    }
    files |= {name: Content(chance.randrange(100), 4096) for name in ODD_NAMES}
    files |= {f"edge/{size}.bin": Content(chance.randrange(2), size) for size in BOUNDARY_SIZES}
    files |= {f"large/{size}.bin": Content(chance.randrange(2), size) for size in LARGE_SIZES}
    files["large/again.bin"] = files[f"large/{LARGE_SIZES[0]}.bin"]
    # No two versions are the same: they would be one.
    return files | {"its own.bin": Content(1_000_000 + seed, 300)}

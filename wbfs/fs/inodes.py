"""Inode numbers are computed, so that they are the same in every mount and need no table.

A number is 39 bits that name a tree and 24 bits that name a row in it:

- above the versions, the tree is the directory itself and the row is 0;
- a folder's tree is the path and the version of its version directory, since the kernel allows a
  directory one parent only, and since a moved alias must be another directory;
- a file's tree is its version alone, so that through `v3/` and `latest/` it is one file, which the
  kernel keeps in memory once.
"""

from __future__ import annotations

import hashlib
from typing import NewType

Inode = NewType("Inode", int)
TreeKey = NewType("TreeKey", int)

ROOT_INODE = Inode(1)
CONTROL_FOLDER = Inode(2)
FIRST_CONTROL_FILE = 3

ROW_BITS = 24
KEY_BITS = 39
"""63 bits in all: some programs read an inode number as a signed one."""


def tree_key(*identity: str) -> TreeKey:
    """Return the key of the tree that those texts identify; never 0."""
    digest = hashlib.blake2b("\0".join(identity).encode(), digest_size=8).digest()
    return TreeKey(int.from_bytes(digest) >> (64 - KEY_BITS) or 1)


def inode_of(key: TreeKey, row: int = 0) -> Inode:
    """Return the number of a tree's row."""
    return Inode(key << ROW_BITS | row)


def split_inode(inode: Inode) -> tuple[TreeKey, int]:
    """Return the tree's key and the row."""
    return TreeKey(inode >> ROW_BITS), inode & ((1 << ROW_BITS) - 1)

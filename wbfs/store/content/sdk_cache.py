"""The wandb SDK's own cache of artifact files, shared with it both ways. Blocking code.

    <cache>/artifacts/obj/md5/xx/yyyy...    plain files by content; xxh128/ likewise

The SDK takes a file whose size is right for good and never looks at its bytes, so nothing but
whole, checked blobs is put there, and nothing of it is served before its digest was checked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from wbfs.model.digests import Algorithm
from wbfs.model.entries import Blob

log = logging.getLogger(__name__)

_ALGORITHMS = frozenset(Algorithm)


class SdkCache:
    """The SDK's cache directory, whether or not it is there."""

    def __init__(self, folder: Path) -> None:
        """Take the SDK's cache directory: WANDB_CACHE_DIR, or ~/.cache/wandb."""
        self._objects = folder / "artifacts" / "obj"

    def open(self, blob: Blob) -> int | None:
        """Return a descriptor of what the SDK keeps as the blob, not checked, or None."""
        slot = self._slot(blob.key)
        if slot is None:
            return None
        try:
            fd = os.open(slot, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            # Not there, not ours to read, or being cleaned up by the SDK: a miss in each case.
            return None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != blob.size:
            os.close(fd)
            return None
        return fd

    def add(self, path: Path) -> None:
        """Give the sealed blob at `path` its name in the SDK's cache too, where it has not got it.

        That is a hard link, which costs nothing; between two filesystems there can be none.
        """
        found = self._slot(path.name)
        if found is None:
            return
        slot = Path(found)
        try:
            try:
                slot.hardlink_to(path)
            except FileNotFoundError:
                slot.parent.mkdir(parents=True, exist_ok=True)
                slot.hardlink_to(path)
        except FileExistsError:
            return
        except OSError as error:
            log.debug("the SDK's cache does not get %s: %s", path.name, error.strerror)

    def remove(self, path: Path, found: os.stat_result) -> None:
        """Take back the name that `add` gave the blob which was at `path`, so that its bytes go."""
        slot = self._slot(path.name)
        if slot is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(slot), found):
                os.unlink(slot)

    def _slot(self, key: str) -> str | None:
        """Return where the SDK has the blob of that key; None for those that it keeps elsewhere."""
        algorithm, _, digest = key.partition("-")
        if algorithm not in _ALGORITHMS:
            return None
        # Not a Path: one takes longer to make than to find that nothing is there.
        return f"{self._objects}/{algorithm}/{digest[:2]}/{digest[2:]}"

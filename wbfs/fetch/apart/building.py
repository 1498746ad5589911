"""Makes a manifest's JSON into its table: here, or as the program of a process of its own.

    python -m wbfs.fetch.apart.building TABLE

The program reads an order from its standard input, a line of JSON, and prints the answer as
another. When its input ends, whoever started it is gone: it removes the table and ends. What it
does takes hundreds of megabytes for a million files, which the system gets back. It imports little,
to start fast.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
from pathlib import Path

import msgspec

from wbfs.model.errors import WbfsError
from wbfs.remote.manifests import Manifest
from wbfs.store.manifest_writer import fill_in_sizes, write_table


class Build(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Write the table of the manifest that is in the open file `manifest_fd`."""

    manifest_fd: int
    table: str
    version_path: str
    artifact: str
    digest: str
    digest_algorithm: str


class FillIn(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Give a table the sizes of other artifacts' files, whose tables are given by artifact id."""

    table: str
    targets: dict[str, str]


class Done(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Whether the manifest hashes to the version's digest."""

    digest_matches: bool = True


class Failed(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """The class's name and the text of a WbfsError."""

    kind: str
    text: str


def obey(order: Build | FillIn) -> Done:
    """Do what is ordered. Raises RemoteProtocolError, StoreError, StoreFull."""
    if isinstance(order, FillIn):
        targets = {artifact_id: Path(table) for artifact_id, table in order.targets.items()}
        fill_in_sizes(Path(order.table), targets)
        return Done()
    manifest = Manifest(
        _mapped(order.manifest_fd),
        digest=order.digest,
        digest_algorithm=order.digest_algorithm,
        what=order.version_path,
    )
    write_table(
        Path(order.table),
        order.version_path,
        order.artifact,
        manifest.paths,
        manifest.row,
        manifest.left_out,
    )
    return Done(digest_matches=manifest.digest_matches)


def _mapped(fd: int) -> bytes | mmap.mmap:
    # What is mapped needs no memory that the kernel couldn't take back; nothing can't be mapped.
    return mmap.mmap(fd, 0, prot=mmap.PROT_READ) if os.fstat(fd).st_size else b""


def main(table: Path) -> None:
    """Obey one order."""
    line = sys.stdin.buffer.readline()
    if not line:
        table.unlink(missing_ok=True)
        sys.exit(1)
    threading.Thread(target=_end_with_input, args=(table,), daemon=True).start()
    order = msgspec.convert(json.loads(line), type=Build | FillIn)
    answer: Done | Failed
    try:
        answer = obey(order)
    except WbfsError as error:
        answer = Failed(kind=type(error).__name__, text=str(error))
    sys.stdout.write(json.dumps(msgspec.to_builtins(answer)))


def _end_with_input(table: Path) -> None:
    # Not the buffered file, whose lock would be held when the program ends.
    os.read(sys.stdin.fileno(), 1)
    table.unlink(missing_ok=True)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

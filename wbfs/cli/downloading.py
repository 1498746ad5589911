"""One `wbfs get`: session, signals, what is shown meanwhile, and what is said at the end."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import trio

from wbfs.cli.echo import echo_path
from wbfs.cli.progress import Progress, progress
from wbfs.cli.running import Ending, keep_bounds, log_to, run_session, say_failures, show, tidy_up
from wbfs.cli.sizes import show_size
from wbfs.daemon.session import Session
from wbfs.fetch.background import Background
from wbfs.fetch.bulk.download import Download
from wbfs.fetch.bulk.target import Target
from wbfs.fetch.offload import Kind
from wbfs.model.entries import Version
from wbfs.model.errors import NotFound, UsageError
from wbfs.model.names import is_safe_component
from wbfs.model.settings import SessionSettings
from wbfs.remote.transport import Deadline

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be downloaded: `source` names a version, without a root it goes to the SDK's."""

    source: str
    root: Path | None
    path_prefix: str
    allow_missing_references: bool


@dataclass(slots=True)
class _Ending(Ending):
    """How it ended: by a signal, with an error, or with what was downloaded."""

    root: Path | None = None
    download: Download | None = None


def download(settings: SessionSettings, order: Order) -> int:
    """Download, print the root to standard output if all went well, and return the exit code.

    Raises WbfsError where nothing could be begun.
    """
    shown = progress()
    log_to(shown)
    began = time.monotonic()
    ending = _Ending()

    async def work(background: Background, session: Session) -> None:
        await _download(background, settings, order, session, shown, ending)

    try:
        trio.run(run_session, settings, work, ending)
    finally:
        shown.close()
    if ending.download is not None:
        _summarize(ending.download, order, shown, time.monotonic() - began)
    if ending.signal is not None:
        shown.say("interrupted; the same command goes on from here")
        return 128 + ending.signal
    if ending.failure is not None:
        raise ending.failure
    assert ending.download is not None
    if ending.download.tally.failed or ending.download.gave_up:
        return 1
    assert ending.root is not None
    echo_path(ending.root)
    return 0


async def _download(
    background: Background,
    settings: SessionSettings,
    order: Order,
    session: Session,
    shown: Progress,
    ending: _Ending,
) -> None:
    version = await _find(order, session)
    root = order.root or await _default_root(settings, session, version)
    ending.root = root
    ending.download = run = Download(
        fetcher=session.fetcher,
        offload=session.offload,
        version=version,
        path_prefix=order.path_prefix,
        target=Target(root, umask=session.umask),
        allow_missing_references=order.allow_missing_references,
    )
    background.spawn(lambda: show(run, shown), name="show how far it is")
    background.spawn(lambda: tidy_up(session), name="tidy up the cache")
    await run.run()
    await session.offload.run(Kind.DISK, lambda: keep_bounds(settings, session, run.fetched_bytes))


async def _find(order: Order, session: Session) -> Version:
    """Return the version that is meant. Raises WbfsError."""
    source = await session.source(order.source if ":" in order.source else f"{order.source}:latest")
    if source.folder:
        raise UsageError(
            f"{order.source!r} goes on behind the alias: for a folder alone, name the version and"
            f" add --path-prefix {source.folder}/"
        )
    return await session.version(source.entity, source.project, source.collection, source.alias)


async def _default_root(settings: SessionSettings, session: Session, version: Version) -> Path:
    """Return where the SDK downloads a version to: after its source, also that of a link.

    Raises WbfsError.
    """
    deadline = Deadline.after(settings.timeout_s)
    try:
        source = await session.offload.run(
            Kind.METADATA, lambda: session.api.version_by_id(version.id, deadline=deadline)
        )
    except NotFound as error:
        raise UsageError(
            f"can't tell the default directory for {version.path}, which is named after the"
            f" collection that it was logged to: {error}; say where with --root"
        ) from error
    name = f"{source.collection}:{source.name}"
    if not is_safe_component(name):
        raise UsageError(f"no directory can be named {name!r}; say where to download with --root")
    return Path(os.path.abspath(os.environ.get("WANDB_ARTIFACT_DIR", "artifacts")), name)


def _summarize(run: Download, order: Order, shown: Progress, seconds: float) -> None:
    tally = run.tally
    say_failures(run, shown)
    if run.gave_up is not None:
        left = f"{tally.files - tally.done:,}" if tally.is_counted else "the other"
        shown.say(f"gave up, and did not try {left} files")
    if tally.is_counted and not tally.files:
        picked = f" whose path starts with {order.path_prefix!r}" if order.path_prefix else ""
        shown.say(f"there is no file{picked}; nothing was written")
        return
    parts = [f"{tally.written:,} written"]
    if tally.right:
        parts.append(f"{tally.right:,} were right already")
    if tally.missing:
        parts.append(f"{tally.missing:,} are missing references")
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    of = f" of {tally.files:,}" if tally.is_counted else ""
    shown.say(
        f"{tally.done:,}{of} files in {seconds:.1f} s: {', '.join(parts)};"
        f" {show_size(run.fetched_bytes)} fetched"
    )

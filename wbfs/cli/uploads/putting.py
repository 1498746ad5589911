"""What `wbfs put` does: what is there becomes a version, unless it is one already."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from wbfs.cli.files.orders import find_selections
from wbfs.cli.in_session import Ended, run_in_session
from wbfs.cli.uploads.content import Content
from wbfs.cli.uploads.entries import (
    Draft,
    Tally,
    Watch,
    digest_of_all,
    drafts_of,
    read_all,
)
from wbfs.cli.uploads.sdk import run_sdk
from wbfs.cli.uploads.showing import show
from wbfs.cli.versions.inputs import Recorded, find_runs, record_versions
from wbfs.cli.words.progress import Counts, Progress, show_all_along
from wbfs.cli.words.sizes import show_size
from wbfs.daemon.session import Session
from wbfs.fetch.work.background import Background, Work
from wbfs.fetch.work.offload import Kind, checkpoint
from wbfs.model.entries import Version
from wbfs.model.errors import NotFound, RemoteError, UsageError, WbfsError, while_doing
from wbfs.model.names import NAME_MAX, REGISTRY_PREFIX, is_safe_component, is_version_name
from wbfs.model.settings import SessionSettings
from wbfs.remote.http.transport import Deadline

LATEST = "latest"
_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)
"""What the SDK takes for the name of an artifact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be put, and as what.

    A description or metadata of None stays as it is; `run` is whose input it becomes, or empty.
    """

    place: str
    type: str
    aliases: tuple[str, ...]
    description: str | None
    metadata: Mapping[str, Any] | None
    references: tuple[str, ...]
    run: str
    content: Content


@dataclass(slots=True)
class Outcome:
    """What became of it, so far; `sent` files were to be sent, and have `sent_bytes`.

    `moved` are aliases that were another version's, or nobody's, and `shown` where mounts show it.
    """

    version: Version | None = None
    is_new: bool = False
    files: int = 0
    sent: int = 0
    sent_bytes: int = 0
    moved: list[str] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)
    shown: list[Path] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield what is to be said of it."""
        assert self.version is not None
        name = self.version.name
        if self.is_new:
            some = f"up to {self.sent:,} ({show_size(self.sent_bytes)}) were sent"
            sent = some if self.sent else "none was sent"
            yield f"{name} is new: {self.files:,} files, of which {sent}"
        else:
            yield f"{name} has that content already: nothing was sent"
        if self.moved:
            yield f"{' and '.join(self.moved)} {'is' if len(self.moved) == 1 else 'are'} {name} now"
        yield from map(str, self.recorded)
        for path in self.shown:
            yield f"{path} shows it"


@dataclass(slots=True, kw_only=True)
class Sending:
    """How much of what is sent the SDK has read; it doesn't say which files those are."""

    files: int
    bytes: int
    position: int = 0
    is_counted: bool = True
    done: int | None = None


def check_words(place: str, type_: str, aliases: Sequence[str]) -> None:
    """Raise UsageError for names that an artifact can't have, before anything is done."""
    *above, name = place.split("/")
    if len(above) not in (1, 2) or not all(map(is_safe_component, above)) or ":" in place:
        raise UsageError(f"{place!r} names no artifact: give [ENTITY/]PROJECT/NAME")
    if not (_NAME.fullmatch(name) and is_safe_component(name)):
        raise UsageError(
            f"no artifact can be named {name!r}: up to 128 letters, digits, '.', '_' and '-', and"
            " neither '.' nor '..'"
        )
    if above[-1].startswith(REGISTRY_PREFIX):
        raise UsageError(
            f"{above[-1]} is a registry, and holds links: put it into a project, and link it there"
        )
    for what, text in (("type", type_), *(("alias", alias) for alias in aliases)):
        if not is_safe_component(text) or ":" in text or not text.isprintable():
            raise UsageError(
                f"there can be no {what} {text!r}: give up to {NAME_MAX} bytes of UTF-8 that can be"
                " printed, without '/' and ':'"
            )
        if what == "alias" and is_version_name(text):
            raise UsageError(f"{text} is no alias: versions are numbered by the server")


def put_all(settings: SessionSettings, order: Order, shown: Progress, outcome: Outcome) -> Ended:
    """Have it done: `outcome` is filled in as it goes, and `shown` shows how far it is."""

    async def work(session: Session, background: Background) -> None:
        await _Putting(settings, order, session, background, shown, outcome).run()

    return run_in_session(settings, work)


class _Putting:
    """One order, step by step."""

    def __init__(
        self,
        settings: SessionSettings,
        order: Order,
        session: Session,
        background: Background,
        shown: Progress,
        outcome: Outcome,
    ) -> None:
        self._settings = settings
        self._order = order
        self._session = session
        self._background = background
        self._shown = shown
        self._outcome = outcome
        *above, self._name = order.place.split("/")
        default = session.credentials.entity or session.viewer.entity
        self._entity, self._project = above if len(above) == 2 else (default, above[0])

    @property
    def _deadline(self) -> Deadline:
        return Deadline.after(self._settings.timeout_s)

    async def run(self) -> None:
        """Do it. Raises WbfsError."""
        order, session = self._order, self._session
        # What can be wrong is found out before anything is read.
        runs = await find_runs(session, order.run) if order.run else []
        await self._check_type()
        drafts = await self._drafts()
        digest = digest_of_all(drafts)
        version = await self._find(digest)
        if version is None:
            version = await self._log(drafts, digest)
        outcome = self._outcome
        outcome.version, outcome.files = version, len(drafts)
        await self._settle(version)
        if runs:
            outcome.recorded = await record_versions(session, self._settings, runs, [version])
        server = session.credentials.base_url
        names = {version.name, LATEST, *version.aliases, *order.aliases}
        # A mount may hang: what asks it is left behind then, and that is waited for.
        outcome.shown = await session.offload.run(
            Kind.DISK, lambda: show(version, names, server), to_the_end=True
        )

    async def _check_type(self) -> None:
        """Raise UsageError where the collection is of another type."""
        place = (self._entity, self._project, self._name)
        try:
            found = await self._session.offload.run(
                Kind.METADATA,
                lambda: self._session.api.collection(*place, deadline=self._deadline),
            )
        except NotFound:
            return
        if found.type != self._order.type:
            raise UsageError(
                f"{'/'.join(place)} is of the type {found.type!r}, and can have no version of the"
                f" type {self._order.type!r}: correct --type, or choose another name"
            )

    async def _drafts(self) -> list[Draft]:
        """Return the entries: of what mounts show unread, of files read, of references asked."""
        content, session = self._order.content, self._session
        files, drafts = dict(content.files), []
        selections = await find_selections(session, [one.at for one in content.shown])
        for shown, selection in zip(content.shown, selections, strict=True):
            version = selection.version
            is_same = (version.entity, version.project, version.collection) == (
                self._entity,
                self._project,
                self._name,
            )
            table = await session.fetcher.manifest(version)
            for draft in drafts_of(shown, selection, table, is_same=is_same):
                if draft.digest:
                    drafts.append(draft)
                elif draft.local_path is not None:
                    files[draft.path] = Path(draft.local_path)
        tally = Tally()
        showing = self._show(tally)
        drafts += await session.offload.run(
            Kind.CHECK, lambda: read_all(files, tally, checkpoint=checkpoint), to_the_end=True
        )
        showing.cancel()
        if self._order.references:
            said = await self._sdk({"references": self._order.references, "entries": []})
            drafts += [Draft(**entry) for entry in said["entries"]]
        if not drafts:
            raise UsageError("there is no file in it: an artifact without files holds nothing")
        return drafts

    async def _find(self, digest: str) -> Version | None:
        """Return the version that has that content already."""
        place = (self._entity, self._project, self._name, digest)
        try:
            found = await self._session.offload.run(
                Kind.METADATA,
                lambda: self._session.api.version(*place, deadline=self._deadline),
            )
        except NotFound:
            return None
        # To a server that knows no digests it is an alias like any other.
        return found if found.digest == digest else None

    async def _log(self, drafts: list[Draft], digest: str) -> Version:
        """Have the SDK make the version."""
        order, outcome = self._order, self._outcome
        sent = [draft for draft in drafts if draft.local_path is not None]
        outcome.sent = len(sent)
        outcome.sent_bytes = sum(draft.size or 0 for draft in sent)
        watch = Watch(sent, checkpoint=checkpoint)
        await self._session.offload.run(Kind.DISK, watch.look)
        whole = {
            "references": [],
            "entries": [draft.as_json() for draft in drafts],
            "entity": self._entity,
            "project": self._project,
            "aliases": list(dict.fromkeys((LATEST, *order.aliases))),
            "digest": digest,
        }
        try:
            made = await self._sdk(whole, size=outcome.sent_bytes, watch=watch.look_at_times)
        except RemoteError:
            # The SDK does not say so where it is sent other bytes than were announced.
            await self._session.offload.run(Kind.DISK, watch.look)
            raise
        outcome.is_new = True
        found = await self._session.offload.run(
            Kind.METADATA,
            lambda: self._session.api.version_by_id(made["id"], deadline=self._deadline),
        )
        try:
            await self._session.offload.run(Kind.DISK, watch.look)
        except UsageError as error:
            raise type(error)(
                f"{error}; {found.path} was made of it meanwhile, and may have wrong bytes there:"
                " delete that version"
            ) from error
        return found

    async def _settle(self, version: Version) -> None:
        """Give the version the aliases, the description and the metadata that it is to have."""
        order, changes = self._order, self._session.api.changes
        missing = sorted({LATEST, *order.aliases} - set(version.aliases))
        if missing:
            await self._change(
                f"have {' and '.join(missing)} be {version.path}",
                lambda: changes.add_aliases(version, missing, deadline=self._deadline),
            )
            self._outcome.moved = missing
        wanted = version
        if order.description is not None:
            wanted = replace(wanted, description=order.description)
        if order.metadata is not None and order.metadata != _object_in(version.metadata):
            wanted = replace(wanted, metadata=json.dumps(order.metadata))
        if (wanted.description, wanted.metadata) != (version.description, version.metadata):
            await self._change(
                f"change what is said of {version.path}",
                lambda: changes.describe(
                    wanted,
                    description=wanted.description,
                    metadata=wanted.metadata,
                    deadline=self._deadline,
                ),
            )

    async def _change(self, what: str, change: Callable[[], None]) -> None:
        try:
            await self._session.offload.run(Kind.METADATA, change)
        except WbfsError as error:
            raise while_doing(what, error) from error

    async def _sdk(
        self,
        order: dict[str, Any],
        *,
        size: int = 0,
        watch: Callable[[], None] = checkpoint,
    ) -> dict[str, Any]:
        """Have the SDK do something, and show how far it is.

        `watch` is called meanwhile, and what it raises ends it.
        """
        sending = Sending(files=len(order["entries"]), bytes=size)

        def note(read: int) -> None:
            # Beside the files it reads little, but it may begin some anew.
            sending.position = min(size, read)

        whole = order | {
            "name": self._name,
            "type": self._order.type,
            "description": self._order.description,
            "metadata": dict(self._order.metadata or {}),
        }
        showing = self._show(sending)
        try:
            return await self._session.offload.run(
                Kind.CHECK,
                lambda: run_sdk(
                    whole,
                    self._session.credentials,
                    timeout_s=self._settings.timeout_s,
                    size=size,
                    on_read=note,
                    checkpoint=watch,
                ),
                to_the_end=True,
            )
        finally:
            showing.cancel()

    def _show(self, counts: Counts) -> Work[None]:
        return self._background.spawn(
            partial(show_all_along, counts, self._shown), name="show how far it is"
        )


def _object_in(text: str) -> object:
    """Return what the server gives as JSON; None where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None

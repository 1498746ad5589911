"""Lock files: which version each alias is, in TOML that people review and commit."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from wbfs.model.entries import Version
from wbfs.model.errors import NameInvalid, UsageError
from wbfs.model.names import is_safe_component, is_version_name

HEAD = "# Which version each alias is, written by `wbfs lock`; `wbfs lock --update` moves it.\n\n"


class Locked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an alias is taken to be.

    `name` is `entity/project/artifact:alias`; `version` is `vN`; `id` and `digest` are the
    version's own, as the server gives them.
    """

    name: str
    version: str
    id: str
    digest: str

    @property
    def place(self) -> tuple[str, str, str, str]:
        """Entity, project, collection and alias. Raises NameInvalid."""
        match [*self.name.partition(":")[0].split("/"), self.name.partition(":")[2]]:
            case [str(), str(), str(), str()] as place if all(map(is_safe_component, place)):
                entity, project, collection, alias = place
                return entity, project, collection, alias
        raise NameInvalid(f"{self.name!r} is no entity/project/artifact:alias")

    def is_of(self, version: Version) -> bool:
        """Whether it is this very version, not one that was logged anew in its place."""
        return (self.id, self.digest) == (version.id, version.digest)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    artifact: tuple[Locked, ...] = ()


def lock_of(name: str, version: Version) -> Locked:
    """Return that a name, `entity/project/artifact:alias`, is a version."""
    return Locked(name=name, version=version.name, id=version.id, digest=version.digest)


def parse_locks(text: bytes, where: str) -> dict[str, Locked]:
    """Return what a lock file says, by name. Raises UsageError, with `where` it was read."""
    try:
        locked = msgspec.toml.decode(text, type=_File).artifact
        places = {one.name: one.place for one in locked}
        for one in locked:
            if not is_version_name(one.version):
                raise NameInvalid(f"{one.version!r}, of {one.name}, is no version like v3")
    except (msgspec.DecodeError, UnicodeDecodeError, NameInvalid) as error:
        raise UsageError(
            f"can't read the lock file {where}: {error}; restore it, or remove it and write it"
            " again with wbfs lock NAME..."
        ) from error
    if len(places) < len(locked):
        names = [one.name for one in locked]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"the lock file {where} has {twice} twice: remove the wrong one")
    return {one.name: one for one in locked}


def render_locks(locked: Iterable[Locked]) -> bytes:
    """Return a lock file's text, ordered by name."""
    file = _File(artifact=tuple(sorted(locked, key=lambda one: one.name)))
    return HEAD.encode() + msgspec.toml.encode(file)

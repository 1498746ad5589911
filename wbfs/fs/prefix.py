"""Which entries a path prefix lets through, as `artifact.download(path_prefix=...)` means it.

The SDK takes an entry whose whole path starts with the text, so `images/b` lets through
`images/bikes/1.png` and `images/b.txt`, and `/images` nothing.
"""

from __future__ import annotations

from wbfs.store.known.manifest_table import ROOT_FOLDER, ManifestTable


class PathPrefix:
    """A prefix of paths in an artifact; the empty one lets everything through."""

    def __init__(self, text: str) -> None:
        self._text = text
        *self._folders, self._name = text.split("/")

    def __bool__(self) -> bool:
        return bool(self._text)

    def shows(self, folder: tuple[str, ...], name: str, *, is_folder: bool) -> bool:
        """Whether `name` in the folder of that path is, or may hold, an entry that it lets through.

        A folder on the way to the prefix may turn out to hold none: see `matches`.
        """
        depth = len(folder)
        if depth > len(self._folders):
            return True
        if depth == len(self._folders):
            return name.startswith(self._name)
        return is_folder and name == self._folders[depth]

    def matches(self, table: ManifestTable) -> bool:
        """Whether it lets any entry of a version through."""
        number = ROOT_FOLDER
        for name in self._folders:
            folder = table.folder_by_name(number, name)
            if folder is None:
                return False
            number = folder.id
        return table.has_name(number, self._name)

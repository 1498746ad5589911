"""The directory that an artifact is downloaded to. Blocking code, for worker threads.

Nothing is written outside it, whatever is in it: folders are opened one below the other, and no
symbolic link among them is followed. A file gets its name once it is whole, so that no torn one is
ever seen; until then it has no name at all where the filesystem can do that, and a crash leaves
nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from wbfs.model.entries import Blob
from wbfs.model.errors import WbfsError
from wbfs.store.content.hashing import digest_of
from wbfs.store.folder import NOT_OFFERED, if_offered

PIECE_BYTES = 16 << 20
"""Bytes that are copied between two looks at whether anybody still waits for the copy."""
COMPARED_BYTES = 1 << 20

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_UNNAMED_FILES = (*NOT_OFFERED, errno.EISDIR, errno.ENOENT)
_NO_NAME_FOR_THEM = (*NOT_OFFERED, errno.ENOENT, errno.EXDEV, errno.EMLINK)
"""What `link` says where there are no links, or no /proc."""
_NO_SUCH_NAME = (errno.ENOENT, errno.EINVAL, errno.EILSEQ)
"""What filesystems say of a name with a colon in it, for instance, or that is no UTF-8."""
_NO_COPY_IN_KERNEL = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


class TargetError(WbfsError):
    """A file can't be written where it belongs."""


class TargetFull(TargetError):
    """The disk that it belongs on is full."""


class Target:
    """A directory to download to, made when it is opened."""

    def __init__(self, root: Path, *, umask: int) -> None:
        """Files get the mode 0666 and folders 0777, without the bits of `umask`."""
        self._root = root
        self._umask = umask
        self._top: TargetFolder | None = None
        # By their names in lower case, where these are all that the filesystem tells apart.
        self._claimed: dict[str, str] | None = None
        # Files come folder by folder.
        self._latest: tuple[str, TargetFolder] | None = None

    def open(self) -> None:
        """Open the directory, made where it isn't there. Raises TargetError.

        To be called once, before `folder`.
        """
        try:
            # Its own path is the user's word: what links are on it are meant.
            fd = self._make(self._root)
        except OSError as error:
            raise TargetError(
                f"can't download to {self._root}: {error.strerror}; choose another directory with"
                " --root"
            ) from error
        self._top = TargetFolder(fd, self._root, umask=self._umask)
        if self._top.takes_case_for_nothing():
            self._claimed = {}

    def _make(self, path: Path) -> int:
        """Return a directory's descriptor, made where it isn't there, and those above it."""
        made = True
        try:
            path.mkdir()
        except FileNotFoundError:
            os.close(self._make(path.parent))
            path.mkdir()
        except FileExistsError:
            made = False
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if made:
            with if_offered():
                os.fchmod(fd, 0o777 & ~self._umask)
        return fd

    def claim(self, path: str) -> None:
        """Note that a file of the artifact belongs at `path`.

        Raises TargetError where the filesystem would take it for another one, as those of memory
        cards and of Windows do where names differ in upper and lower case only.
        """
        if self._claimed is None:
            return
        other = self._claimed.setdefault(path.lower(), path)
        if other != path:
            raise TargetError(
                f"can't write {self._root / path}: its filesystem takes it for {other}; download to"
                " another place"
            )

    def folder(self, path: str) -> TargetFolder:
        """Return the folder of that path in it, made where it isn't there. Raises TargetError.

        The path is empty for the directory itself, and else ends in a slash.
        """
        latest = self._latest
        if latest is not None and latest[0] == path:
            return latest[1]
        assert self._top is not None
        folder = self._top
        for name in path.split("/")[:-1]:
            folder = folder.below(name)
        self._latest = path, folder
        return folder


class TargetFolder:
    """An open folder of the target; closed when nobody refers to it any more."""

    def __init__(self, fd: int, path: Path, *, umask: int) -> None:
        self._fd = fd
        self._path = path
        self._umask = umask

    def __del__(self) -> None:
        os.close(self._fd)

    def takes_case_for_nothing(self) -> bool:
        """Whether a name in upper case is that in lower case, too."""
        name = _temporary_name()
        try:
            os.close(os.open(name, _FILE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._fd))
            try:
                return self._stat(name.upper()) is not None
            finally:
                os.unlink(name, dir_fd=self._fd)
        except OSError:
            # Nothing can be written here, which is told of each file.
            return False

    def below(self, name: str) -> TargetFolder:
        """Return the folder `name` in it, made where it isn't there. Raises TargetError."""
        path = self._path / name
        try:
            try:
                fd = os.open(name, _FOLDER, dir_fd=self._fd)
            except FileNotFoundError:
                fd = self._make(name)
        except OSError as error:
            found = self._stat(name)
            if error.errno not in (errno.ENOTDIR, errno.ELOOP) or found is None:
                raise _error(f"make the folder {path}", error) from error
            is_link = stat.S_ISLNK(found.st_mode)
            raise TargetError(
                f"can't use {path} as a folder of the artifact: it is"
                f" {'a symbolic link, which may lead anywhere' if is_link else 'a file'};"
                " remove it, or download to another place"
            ) from error
        return TargetFolder(fd, path, umask=self._umask)

    def _make(self, name: str) -> int:
        made = False
        # Another thread may make it as well.
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=self._fd)
            made = True
        fd = os.open(name, _FOLDER, dir_fd=self._fd)
        if made:
            kept = os.fstat(fd).st_mode & stat.S_ISGID
            with if_offered():
                os.fchmod(fd, kept | 0o777 & ~self._umask)
        return fd

    def is_right(self, name: str, blob: Blob, *, checkpoint: Callable[[], None]) -> bool:
        """Whether the blob's bytes are at `name` already; all of them are read.

        False where only the blob itself could tell. Raises TargetError where a folder is in the
        file's place. `checkpoint` raises when nobody waits for the answer any more.
        """
        found = self._stat(name)
        if found is None or not stat.S_ISREG(found.st_mode):
            if found is not None and stat.S_ISDIR(found.st_mode):
                raise self._folder_in_the_way(name)
            return False
        if blob.digest is None or blob.size not in (None, found.st_size):
            return False
        try:
            fd = self._open(name)
            try:
                return (
                    digest_of(fd, blob.digest.algorithm, checkpoint=checkpoint) == blob.digest.hex
                )
            finally:
                os.close(fd)
        except OSError:
            # Not to be read: it is replaced.
            return False

    def has_bytes_of(self, name: str, source: int) -> bool:
        """Whether what is at `name` has the same bytes as the open file `source`."""
        try:
            fd = self._open(name)
        except OSError:
            return False
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != os.fstat(source).st_size:
                return False
            for offset in range(0, found.st_size, COMPARED_BYTES):
                ours, theirs = (os.pread(one, COMPARED_BYTES, offset) for one in (source, fd))
                if ours != theirs:
                    return False
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def begin(self) -> int | None:
        """Open a new file without a name; None where the filesystem has no such files.

        Raises OSError.
        """
        try:
            return os.open(".", _FILE | os.O_TMPFILE, 0o600, dir_fd=self._fd)
        except OSError as error:
            if error.errno in _NO_UNNAMED_FILES:
                return None
            raise

    def write(self, name: str, fill: Callable[[int], None], *, begun: int | None = None) -> None:
        """Put what `fill` writes to an open file at `name`, in the place of what is there.

        That is an empty one, or what was `begun` first, which is closed in any case. What is no
        folder is replaced, a symbolic link itself and not what it leads to. Raises TargetError,
        TargetFull, and what `fill` raises; then nothing has changed.
        """
        with self.writing(name):
            if not self._write_unnamed(name, fill, begun):
                self._write_named(name, fill)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Say in words what is the matter where the file at `name` can't be written.

        Raises TargetError, TargetFull.
        """
        try:
            yield
        except IsADirectoryError as error:
            raise self._folder_in_the_way(name) from error
        except OSError as error:
            raise _error(f"write {self._path / name}", error) from error

    def _write_unnamed(self, name: str, fill: Callable[[int], None], begun: int | None) -> bool:
        """Write the file and then name it; False where the filesystem has no such files."""
        fd = self.begin() if begun is None else begun
        if fd is None:
            return False
        try:
            fill(fd)
            with if_offered():
                os.fchmod(fd, 0o666 & ~self._umask)
            return self._name_it(fd, name)
        finally:
            os.close(fd)

    def _name_it(self, fd: int, name: str) -> bool:
        """Give an unnamed file its name; False where it can't have one."""
        try:
            self._name(fd, name)
        except FileExistsError:
            temporary = _temporary_name()
            self._name(fd, temporary)
            self._rename(temporary, name)
        except OSError as error:
            if error.errno not in _NO_NAME_FOR_THEM:
                raise
            return False
        return True

    def _write_named(self, name: str, fill: Callable[[int], None]) -> None:
        temporary = _temporary_name()
        fd = os.open(temporary, _FILE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._fd)
        try:
            try:
                fill(fd)
                with if_offered():
                    os.fchmod(fd, 0o666 & ~self._umask)
            finally:
                # Some filesystems, of other machines mostly, say only now that they are full.
                os.close(fd)
        except BaseException:
            os.unlink(temporary, dir_fd=self._fd)
            raise
        self._rename(temporary, name)

    def _name(self, fd: int, name: str) -> None:
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=self._fd, follow_symlinks=True)

    def _rename(self, temporary: str, name: str) -> None:
        try:
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            os.unlink(temporary, dir_fd=self._fd)
            raise

    def _open(self, name: str) -> int:
        # Not to wait for somebody who writes to a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._fd)

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            # What can't be looked at is found out by whoever writes there.
            return None

    def _folder_in_the_way(self, name: str) -> TargetError:
        return TargetError(
            f"can't write {self._path / name}: there is a folder in the file's place; remove it, or"
            " download to another place"
        )


def _temporary_name() -> str:
    return f".wbfs-{secrets.token_hex(8)}"


def split(path: str) -> tuple[str, str]:
    """Return a path's folder, with a slash behind it unless it is the root, and its name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash, name


def copy(source: int, fd: int, *, stop: int, checkpoint: Callable[[], None]) -> None:
    """Write the bytes before `stop` of the open file `source` to `fd`, from where that stands.

    The copy shares the source's blocks where the filesystem can do that. `checkpoint` raises when
    nobody waits for it any more. Raises OSError.
    """
    done = os.lseek(fd, 0, os.SEEK_CUR)
    in_kernel = True
    while done < stop:
        count = min(stop - done, PIECE_BYTES)
        try:
            # Both leave alone the position of `source`, which others read as well.
            if in_kernel:
                copied = os.copy_file_range(source, fd, count, done)
            else:
                copied = os.sendfile(fd, source, done, count)
        except OSError as error:
            if not in_kernel or error.errno not in _NO_COPY_IN_KERNEL:
                raise
            in_kernel = False
            continue
        if not copied:
            raise OSError(errno.EIO, "the cached file has become shorter")
        done += copied
        checkpoint()


def _error(doing: str, error: OSError) -> TargetError:
    if error.errno in _FULL:
        return TargetFull(f"can't {doing}: the disk is full; free space, or use another place")
    reason = error.strerror
    if error.errno in _NO_SUCH_NAME:
        reason = f"{reason}: its filesystem may have no such names; download to another place"
    return TargetError(f"can't {doing}: {reason}")

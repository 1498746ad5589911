"""The errors that wbfs raises. What each means to a program is decided in `wbfs.fs.errno_map` only.

Every message says what was being done, to what, why it failed and what to do next, and holds no
API key and no signed URL's query.
"""

from __future__ import annotations

import errno


class WbfsError(Exception):
    """The base of all errors that wbfs raises on purpose."""


def while_doing(what: str, error: WbfsError) -> WbfsError:
    """Return an error of the same class that says what could not be done because of it."""
    doing = f"can't {what}: "
    # Once is enough, however many waited for each other.
    more = type(error)(f"{doing}{str(error).removeprefix(doing)}")
    more.__cause__ = error
    return more


class Defect(WbfsError):
    """What an exception of our own making is to those that wait for what failed by it."""


class UsageError(WbfsError):
    """What the user asked for can't be done: bad arguments, settings or mountpoint."""


class NotNow(UsageError):
    """It can't be done while something else is as it is, which may change by itself."""


class NoFuse(UsageError):
    """Nothing can be mounted on this machine as it is."""


class MountLost(WbfsError):
    """The mount went without being told to: its connection was aborted."""


class NotFound(WbfsError):
    """The server itself said that there is no such entity, project, artifact, alias or file."""


class NotADirectory(WbfsError):
    """A path goes on below a file."""


class IsADirectory(WbfsError):
    """A directory was opened as a file."""


class BadHandle(WbfsError):
    """The kernel named a handle that is not open."""


class StaleInode(WbfsError):
    """The kernel named an inode that this mount never gave out or whose version is gone."""


class InodeTaken(WbfsError):
    """Something would have the inode number of something else, by chance."""


class NameInvalid(WbfsError):
    """A text is no entity, project, artifact or alias name."""


class AccessDenied(WbfsError):
    """Not logged in, or logged in without permission."""


class LoginRefused(AccessDenied):
    """The server knows nobody by this login, or there is none, or it lets nobody through.

    It may go better with another login, or later.
    """


class RemoteError(WbfsError):
    """The server could not be reached or failed, also after the retries."""


class Offline(RemoteError):
    """The server was not asked, since the user said so."""


class RemoteTimeout(RemoteError):
    """No answer by the operation's deadline."""


class RateLimited(RemoteError):
    """The server still asked for fewer requests at the deadline."""


class RemoteProtocolError(RemoteError):
    """The server answered something that the W&B protocol does not allow."""


class TooLarge(RemoteProtocolError):
    """The server has more to say than wbfs takes: to ask again is of no use."""


class UrlExpired(RemoteError):
    """A signed URL is no longer accepted; a fresh one may be."""


class ContentError(WbfsError):
    """The bytes are not those that the manifest names."""


class IntegrityError(ContentError):
    """Bytes of a wrong digest or size, also at the second try."""


class ReferenceChanged(ContentError):
    """A reference's object is no longer the one that the manifest recorded."""


class ReferenceMissing(ReferenceChanged):
    """A reference's object is gone."""


class ReferenceIsFolder(ReferenceMissing):
    """A reference leads to a folder of objects, of which nothing was recorded."""


class ReferenceUnsupported(ContentError):
    """No handler is installed for a reference's scheme."""


class StoreError(WbfsError):
    """The local cache could not be read or written."""


class StoreFull(StoreError):
    """The local cache's disk is full."""


NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""What the system says where this process, or the machine, has no descriptor left."""


class NoDescriptor(StoreError):
    """No descriptor is left, for a file or for a connection."""


def no_descriptor(doing: str) -> NoDescriptor:
    """Return the error of what can't be done because of that."""
    return NoDescriptor(
        f"can't {doing}: wbfs has as many files and connections open as it may; close files that"
        " are read through it, or raise the hard limit (ulimit -Hn) and start it again"
    )

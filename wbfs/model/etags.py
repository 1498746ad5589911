"""ETags, compared as the web means them: the same object has more than one."""

from __future__ import annotations

import re

# What web servers put behind, or into, the ETag of an answer that they have compressed.
_COMPRESSED = re.compile(r"(--?|;|:)(gzip|deflate|br|zstd)$", re.IGNORECASE)


def same_object(etag: str, token: str) -> bool:
    """Whether an answer's ETag is that of the object whose ETag was recorded as `token`.

    Both may be weak, and of answers that were compressed on their way. `token` is as the SDK
    writes it: without the quotes, as far as those are first and last.
    """
    return _strong(etag) == _strong(token)


def may_be_compressed(token: str) -> bool:
    """Whether a recorded ETag says that its answer may have been compressed on its way.

    The size that was recorded with it is that answer's then.
    """
    return _without_quotes(token) != _strong(token) or token.strip().startswith("W/")


def _strong(text: str) -> str:
    """Return an ETag without quotes, and without what says how its answer was sent."""
    return _COMPRESSED.sub("", _without_quotes(text))


def _without_quotes(text: str) -> str:
    return text.strip().removeprefix("W/").strip('"')

"""`wbfs` with a defect put into it on purpose."""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """
import sys
from importlib import import_module
from wbfs.cli.main import main
module, name, method, marker = sys.argv[1:5]
broken = getattr(import_module(module), name)
original = getattr(broken, method)
def raising(*args, **kwargs):
    if marker in repr(args):
        raise LookupError("a defect on purpose")
    return original(*args, **kwargs)
setattr(broken, method, raising)
sys.argv[1:] = sys.argv[5:]
main()
"""


def broken_wbfs(place: str, marker: str, *words: str | Path) -> tuple[str | Path, ...]:
    """Return a command that is `wbfs WORDS...`, but for one method that raises LookupError.

    `place` is `module:class.method`; it raises where its arguments, written out, have `marker`.
    """
    module, _, names = place.partition(":")
    return (sys.executable, "-c", _PROGRAM, module, *names.split("."), marker, *words)

"""Asks a mount how it is, and may wait for it for ever: run as a program, never imported.

It prints JSON: `errno`, 0 where the mount answers, its `device` number, "0:45", and its `status`,
the text of status.json, where that is asked for and may be read; or whether it `shows` an artifact
at a path below it, once it was told to look again. It needs nothing but the standard
library, so that it starts at once.
"""

import contextlib
import json
import os
import sys
import time

SHOW_TIMEOUT_S = 1.0
"""Seconds in which the kernel is told that a name is another version now, unless that is pinned."""
SHOW_POLL_S = 0.02


def main(path: str, what: str, owner: str, *more: str) -> None:
    """Print what the mount says; `owner` is "uid:gid" of who alone may ask it, or empty."""
    answer: dict[str, object] = {"errno": 0}
    try:
        # On the way to it the owner may be let in no more than others.
        place = os.open(path, os.O_PATH)
    except OSError as error:
        return json.dump(answer | {"errno": error.errno}, sys.stdout)
    if owner:
        uid, gid = map(int, owner.split(":"))
        # Root of a container may not be allowed to: then it asks as it is.
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
    try:
        # Not stat, which the kernel answers from memory.
        os.fstatvfs(place)
        found = os.fstat(place)
        answer["device"] = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
        if what == "status":
            answer["status"] = _text(place, ".wbfs/status.json")
        elif what == "shows":
            answer["shows"] = _text(place, ".wbfs/refresh") is not None and _shows(place, *more)
    except OSError as error:
        answer["errno"] = error.errno
    return json.dump(answer, sys.stdout)


def _text(place: int, path: str) -> str | None:
    try:
        with open(os.open(path, os.O_RDONLY, dir_fd=place), encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, PermissionError):
        # It is its owner's only, and what merely looks like wbfs has none.
        return None


def _shows(place: int, path: str, artifact_id: str) -> bool:
    until_s = time.monotonic() + SHOW_TIMEOUT_S
    while True:
        with contextlib.suppress(FileNotFoundError):
            # Nothing of it is opened.
            found = os.getxattr(f"/proc/self/fd/{place}/{path}", "user.wandb.id")
            if found.decode() == artifact_id:
                return True
        if time.monotonic() > until_s:
            return False
        time.sleep(SHOW_POLL_S)


if __name__ == "__main__":
    main(*sys.argv[1:])

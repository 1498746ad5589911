"""How a mount is, in words.

What a mount says of itself may be of another version of wbfs, so that whatever is missing is left
out. It may be anything, too: of another user's mount that only has the name.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wbfs.cli.words.sizes import show_size
from wbfs.daemon.mounts.looking.health import Health
from wbfs.daemon.mounts.looking.survey import Seen

Status = dict[str, Any]

SHOWN = 5
"""Of what there may be many: so many are shown, and all are in the JSON."""
WAITS_S = 0.1
"""Seconds after which a program that has no answer yet is said to wait."""
_LINEAGE_COUNTS = ("recorded", "pending", "failed", "dropped")
NONSENSE = (AttributeError, LookupError, TypeError, ValueError, OverflowError)
"""What comes of a status that is none."""


def lines(seen: Seen) -> list[str]:
    """Return what is to be said of a mount, a line each."""
    said = [f"{seen.path}: {_state(seen)}"]
    try:
        for what, text in _rows(seen):
            said.append(f"  {what:<10} {text}")
    except NONSENSE:
        said.append("  what else it says of itself makes no sense to this version of wbfs")
    return said


def _state(seen: Seen) -> str:
    match seen.health:
        case Health.NOT_MOUNTED if seen.below is not None:
            return f"not mounted, but on the mount at {seen.below}"
        case Health.NOT_MOUNTED:
            return "not mounted"
        case Health.DEAD:
            return "dead: its daemon has ended; mount it again, or take it down with wbfs umount"
        case Health.HANGS:
            daemon = f" (process {seen.record.pid})" if seen.record else ""
            return f"hung: its daemon{daemon} does not answer; wbfs umount --force ends it"
    lost_since = seen.status.get("server_lost_since")
    return f"serving, without its server since {lost_since}" if lost_since else "serving"


def _rows(seen: Seen) -> Iterator[tuple[str, str]]:
    """Yield what is told, and the text."""
    record, status = seen.record, seen.status
    if record or status:
        server = record.server if record else status.get("server")
        text = f"{seen.source or 'everything'}, of {server}{_user(status)}"
        yield "source", f"{text}, as of {status['as_of']}" if status.get("as_of") else text
    if seen.mount is not None and seen.mount.is_another_users:
        yield "owner", _owner(seen.mount.user_id)
    yield from _daemon(seen)
    if not status:
        return
    yield from _cache(status)
    yield from _aliases(status)
    yield from _reads(status)
    yield from _waiting(seen)
    yield from _fetching(status)
    yield from _prefetches(status)
    yield from _lineage(status)
    yield from _errors(status)
    if seen.waiting:
        yield "kernel", f"unanswered: {_count(seen.waiting, 'request', 'requests')}"


def _user(status: Status) -> str:
    user = status.get("user")
    return f", as {user}" if user else ""


def _owner(uid: int | None) -> str:
    try:
        return f"{pwd.getpwuid(uid or 0).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _daemon(seen: Seen) -> Iterator[tuple[str, str]]:
    record, status = seen.record, seen.status
    pid = status.get("pid") if seen.is_elsewhere else seen.pid
    if pid is None:
        return
    text = f"process {pid}{' of a container' if seen.is_elsewhere else ''}"
    if (age_s := _age_s(status.get("started_at"))) is not None:
        text += f", for {show_duration(age_s)}"
    log_file = record.log_file if record else status.get("log_file")
    yield "daemon", f"{text}; it logs to {log_file}" if log_file else text


def _age_s(since: object) -> float | None:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(str(since))).total_seconds()
    except (ValueError, TypeError):
        return None


def _cache(status: Status) -> Iterator[tuple[str, str]]:
    cache = status.get("cache", {})
    used, limit = cache.get("used_bytes"), cache.get("limit_bytes")
    text = f"{cache.get('dir')}: {show_size(used or 0)}"
    if limit is not None:
        text += f" of {show_size(limit)}"
    yield "cache", text
    if cache.get("trouble"):
        yield "", f"{cache.get('state')}: {cache['trouble']}"


def _reads(status: Status) -> Iterator[tuple[str, str]]:
    fetched = status.get("fetched", {})
    served, in_memory = fetched.get("served_bytes", 0), fetched.get("from_memory_bytes", 0)
    text = f"{show_size(served)} read ({show_share(in_memory, served)} of it from memory)"
    text += f", {show_size(fetched.get('fetched_bytes', 0))} fetched"
    if fetched.get("failed_fetches"):
        text += f"; {_count(fetched['failed_fetches'], 'fetch', 'fetches')} failed"
    yield "bytes", text
    if gateway := status.get("gateway"):
        # Some may have come and not be counted as fetched yet.
        came = min(gateway.get("bytes", 0), fetched.get("fetched_bytes", 0))
        text = f"{gateway.get('url')}: {show_share(came, fetched.get('fetched_bytes', 0))} of those"
        text += " fetched"
        if gateway.get("trouble"):
            text += f"; left alone for now: {gateway['trouble']}"
        yield "gateway", text
    here, opened = fetched.get("opened_here", 0), fetched.get("opened_files", 0)
    text = (
        f"{opened} opened ({show_share(here, opened)} were here), {status.get('open_files')} open"
    )
    if fetched.get("waited_reads"):
        waited = show_duration(fetched.get("waited_s", 0.0))
        text += f"; {_count(fetched['waited_reads'], 'read', 'reads')} waited, {waited} in all"
    yield "files", text


def _aliases(status: Status) -> Iterator[tuple[str, str]]:
    for number, (alias, version) in enumerate(status.get("aliases", {}).items()):
        if number == SHOWN:
            yield "", "..."
            return
        yield "" if number else "aliases", f"{alias} is {version}"


def _waiting(seen: Seen) -> Iterator[tuple[str, str]]:
    # What asks for the status is a request, too.
    longest = seen.status.get("waiting", {}).get("longest", ())
    longest = [one for one in longest if one.get("seconds", 0) >= WAITS_S]
    for number, one in enumerate(longest[:SHOWN]):
        what = f"{one.get('operation')} {one.get('path') or ''}".strip()
        # What numbers processes have in a container is not known here.
        who = _who(None if seen.is_elsewhere else one.get("pid"))
        text = f"{what} for {show_duration(one.get('seconds', 0.0))}, {who}"
        yield "" if number else "waiting", text


def _who(pid: object) -> str:
    # A mount of another user's may say anything.
    if not isinstance(pid, int) or pid <= 0:
        return "by a process that can't be told"
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return f"by process {pid}"
    return f"by {name} (process {pid})"


def _fetching(status: Status) -> Iterator[tuple[str, str]]:
    for number, one in enumerate(status.get("fetching", ())[:SHOWN]):
        seconds, brought = one.get("seconds", 0.0), one.get("bytes", 0)
        text = f"{one.get('path')}, for {one.get('why')}: {show_size(brought)}"
        if one.get("size"):
            text += f" of {show_size(one['size'])}"
        rate = show_size(int(brought / max(seconds, 0.001)))
        yield "" if number else "fetching", f"{text} in {show_duration(seconds)}, {rate}/s"


def _errors(status: Status) -> Iterator[tuple[str, str]]:
    for number, error in enumerate(status.get("last_errors", ())):
        text = f"{error.get('time')} {error.get('errno')}: {error.get('cause')}"
        yield "" if number else "errors", text


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def show_share(part: float, whole: float) -> str:
    """Return which share of a whole a part is, for people to read."""
    return f"{part / whole:.0%}" if whole else "none"


def _prefetches(status: Status) -> Iterator[tuple[str, str]]:
    for loader in status.get("prefetch", ()):
        yield (
            "prefetch",
            f"{loader.get('version')}/{loader.get('folder')}: "
            f"{show_size(loader.get('on_their_way_bytes', 0))} on their way,"
            f" {show_size(loader.get('unread_bytes', 0))} here and unread: {loader.get('why')}",
        )


def _lineage(status: Status) -> Iterator[tuple[str, str]]:
    lineage = status.get("lineage", {})
    counts = [f"{lineage[name]} {name}" for name in _LINEAGE_COUNTS if lineage.get(name)]
    if lineage.get("run") or counts:
        yield (
            "inputs",
            f"of runs ({lineage.get('run') or 'none'}): {', '.join(counts) or 'none yet'}",
        )


def show_duration(seconds: float) -> str:
    """Return a time for people to read: its largest two units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {whole % 60} s"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"

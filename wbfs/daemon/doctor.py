"""What this machine has of what mounts need, and what to do where it lacks something.

Each check looks at one thing, asks no mount, and never raises what can be said in words. Blocking.
"""

from __future__ import annotations

import email.utils
import importlib.util
import os
import resource
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbfs.daemon.fuse.kernel import MAX_BACKGROUND, READ_AHEAD_KB
from wbfs.daemon.mounts.connection import CONTROL
from wbfs.daemon.mounts.mountpoint import FUSE_CONF, users_may_allow_other
from wbfs.model.errors import WbfsError
from wbfs.model.settings import MIN_FREE_BYTES
from wbfs.model.text import plain
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.credentials import Credentials, load_credentials
from wbfs.remote.http.failures import host_of
from wbfs.remote.http.gateway import DRAGONFLY
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.store.folder import check_cache, disk_of, free_bytes, try_out

DESCRIPTORS = 65536
"""Files and connections open at once that a busy data loader takes, and more."""
SERVER_TIMEOUT_S = 8.0
CLOCK_OFF_S = 120.0
"""Seconds by which the clock may be wrong: signed URLs are good for minutes."""
SYS_ADMIN = 1 << 21
"""The capability to mount, as /proc/self/status has it (linux/capability.h)."""
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
EXTRAS = {
    "s3": "botocore",
    "gcs": "google.auth",
    "azure": "azure.identity",
    "socks": "socks",
    "watch": "rich",
    "devserver": "ariadne",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; with something to do where it is not well, or could be better."""

    what: str
    text: str
    is_well: bool = True
    to_do: str = ""


def findings(cache_dir: Path, blob_gateway: str) -> Iterator[Finding]:
    """Yield what all checks find, one after another; `blob_gateway` may be empty."""
    yield _device()
    yield _fusermount()
    yield _allow_other()
    yield _read_ahead()
    yield _background_limit()
    yield _descriptors()
    yield _cache(cache_dir)
    yield _bundles()
    yield _proxy()
    yield from _server()
    yield _gateway(blob_gateway)
    yield _extras()


def _device() -> Finding:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Finding(
            "/dev/fuse",
            f"can't be opened: {error.strerror}",
            is_well=False,
            to_do="load the kernel's module (modprobe fuse), chmod 666 /dev/fuse; start a container"
            " with --device /dev/fuse --cap-add SYS_ADMIN, or pass it a descriptor (--fd-socket)",
        )
    return Finding("/dev/fuse", "can be opened")


def _fusermount() -> Finding:
    path = shutil.which("fusermount3")
    if path is None:
        to_do = "apt install fuse3"
        return Finding("fusermount3", "is not installed", is_well=False, to_do=to_do)
    if os.getuid() != 0 and not os.stat(path).st_mode & stat.S_ISUID:
        to_do = f"have root run chmod u+s {path}, or mount as root"
        return Finding("fusermount3", "mounts for root only", is_well=False, to_do=to_do)
    if not _may_mount():
        to_do = "start the container with --cap-add SYS_ADMIN, and users other than root without"
        to_do += " no-new-privileges, or pass it a descriptor (--fd-socket)"
        return Finding("fusermount3", "may mount nothing here", is_well=False, to_do=to_do)
    return Finding("fusermount3", path)


def _may_mount() -> bool:
    """Whether fusermount3 has what the kernel asks of who mounts, once it is root."""
    if os.getuid() == 0:
        return _is_admin()
    return _process("NoNewPrivs") == "0" and bool(int(_process("CapBnd"), 16) & SYS_ADMIN)


def _is_admin() -> bool:
    return os.getuid() == 0 and bool(int(_process("CapEff"), 16) & SYS_ADMIN)


def _process(name: str) -> str:
    """Return what the kernel says of this process."""
    lines = Path("/proc/self/status").read_text(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines)[name].strip()


def _allow_other() -> Finding:
    if os.getuid() == 0 or users_may_allow_other():
        return Finding("allow_other", "--allow-other may be used")
    return Finding(
        "allow_other",
        "no other user, and no container, can read your mounts",
        to_do=f"have root add the line user_allow_other to {FUSE_CONF}, if they are to",
    )


def _read_ahead() -> Finding:
    # Where /sys is read-only, as in containers, who may mount gets past that, if it is its own.
    if _is_admin() and os.stat("/sys").st_uid == 0:
        return Finding("read-ahead", "the kernel's may be raised")
    return Finding(
        "read-ahead",
        "the kernel reads 128 KiB ahead, which makes one reader of large files slower",
        to_do=f"mount as root, or have it write {READ_AHEAD_KB} to"
        " /sys/class/bdi/0:<device>/read_ahead_kb",
    )


def _background_limit() -> Finding:
    if _is_admin():
        return Finding("requests", "the kernel may send many at once")
    return Finding(
        "requests",
        "the kernel sends 12 at once, for which all readers of a mount wait",
        to_do=f"mount as root, or have it write {MAX_BACKGROUND} to"
        f" {CONTROL}/<device>/max_background",
    )


def _descriptors() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS:
        return Finding("files", "enough may be open at once")
    to_do = f"raise the hard limit to {DESCRIPTORS} (limits.conf, LimitNOFILE=, --ulimit)"
    return Finding("files", f"{hard} may be open at once", to_do=to_do)


def _cache(cache_dir: Path) -> Finding:
    there = cache_dir
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    try:
        if there == cache_dir:
            check_cache(cache_dir)
        try_out(there, cache_dir)
        disk = disk_of(there)
    except (WbfsError, OSError) as error:
        text = str(error) if isinstance(error, WbfsError) else f"{cache_dir}: {error.strerror}"
        return Finding("cache", text, is_well=False, to_do="set WBFS_CACHE_DIR to another folder")
    free = free_bytes(disk)
    text = f"{cache_dir}, with {free / 1e9:.1f} GB free" if disk.f_blocks else str(cache_dir)
    if free < 2 * MIN_FREE_BYTES:
        to_do = "free space, or set WBFS_CACHE_DIR to another disk: nothing is kept otherwise"
        return Finding("cache", text, is_well=False, to_do=to_do)
    return Finding("cache", text)


def _bundles() -> Finding:
    named = [name for name in CA_VARIABLES if os.environ.get(name)]
    bundles = ", ".join(f"{name}={os.environ[name]}" for name in named)
    if missing := [name for name in named if not _leads_somewhere(os.environ[name])]:
        to_do = f"correct or unset {', '.join(missing)}: nothing is there"
        return Finding("CAs", bundles, is_well=False, to_do=to_do)
    return Finding("CAs", bundles or "the public ones")


def _proxy() -> Finding:
    proxies = [name for name in _proxy_names() if os.environ.get(name)]
    # Not what they name: a password may be in it.
    return Finding("proxy", f"named by {', '.join(proxies)}" if proxies else "none is named")


def _server() -> Iterator[Finding]:
    """Look at the login, and at the clock by the server's."""
    try:
        credentials = load_credentials()
    except WbfsError as error:
        yield Finding(
            "login",
            str(error),
            is_well=False,
            to_do="do what it says; wbfs mount --help has where all is looked for",
        )
        return
    transport = Transport.for_credentials(
        credentials, checkpoint=lambda: None, offline=False, private_references=False
    )
    try:
        yield _clock(transport, credentials)
        viewer = WandbApi(transport=transport, credentials=credentials).viewer(
            deadline=Deadline.after(SERVER_TIMEOUT_S)
        )
        yield Finding("login", f"{viewer.username or viewer.entity} at {credentials.base_url}")
    except WbfsError as error:
        to_do = "check WANDB_BASE_URL and the key, the proxy and the CAs above"
        yield Finding("login", plain(str(error)), is_well=False, to_do=to_do)
    finally:
        transport.close()


def _leads_somewhere(paths: str) -> bool:
    """Whether something is at one of several paths, with colons between, at least."""
    return any(map(os.path.exists, paths.split(":")))


def _proxy_names() -> Iterator[str]:
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        yield from (name, name.upper())


def _clock(transport: Transport, credentials: Credentials) -> Finding:
    """Compare the clock with the server's. Raises WbfsError where that can't be had."""
    deadline = Deadline.after(SERVER_TIMEOUT_S)
    with transport.request(
        "GET", credentials.base_url, peer=Peer.WANDB, headers={}, deadline=deadline
    ) as response:
        now = email.utils.parsedate_tz(response.headers.get("Date", ""))
    if now is None:
        return Finding("clock", "the server doesn't tell the time")
    off_s = time.time() - email.utils.mktime_tz(now)
    if abs(off_s) > CLOCK_OFF_S:
        text = f"{abs(off_s):.0f} s {'before' if off_s > 0 else 'behind'} the server's"
        return Finding(
            "clock", text, is_well=False, to_do="set it: signed URLs expire (timedatectl)"
        )
    return Finding("clock", "as the server's")


def _gateway(url: str) -> Finding:
    """Ask a gateway for nothing that it has: whether it may ask the store, only a blob shows."""
    if not url:
        return Finding("gateway", "none is named")
    transport = Transport()
    try:
        with transport.request(
            "GET",
            f"{url.removeprefix(DRAGONFLY).rstrip('/')}/",
            peer=Peer.GATEWAY,
            headers={},
            deadline=Deadline.after(SERVER_TIMEOUT_S, retried_s=0),
        ):
            return Finding("gateway", f"{host_of(url)} answers")
    except WbfsError as error:
        to_do = "look whether it runs, and correct WBFS_BLOB_GATEWAY: all comes from the store else"
        return Finding("gateway", plain(str(error)), is_well=False, to_do=to_do)
    finally:
        transport.close()


def _extras() -> Finding:
    missing = [name for name, module in EXTRAS.items() if not _is_there(module)]
    if not missing:
        return Finding("extras", "all are installed")
    to_do = f"pip install 'wbfs[{','.join(missing)}]' for those that you need"
    return Finding("extras", f"not installed: {', '.join(missing)}", to_do=to_do)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False

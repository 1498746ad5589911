"""The wandb SDK, which uploads: always in a process of its own, that leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wbfs.model.errors import (
    AccessDenied,
    RemoteError,
    RemoteTimeout,
    StoreError,
    UsageError,
    WbfsError,
)
from wbfs.remote.credentials import Credentials
from wbfs.remote.http.bytes import SLOWEST_BYTES_PER_S
from wbfs.remote.http.failures import without_secrets

POLL_S = 0.2
START_TIMEOUT_S = 60.0
"""Seconds that the SDK has to start, and its service to end."""
END_TIMEOUT_S = 5.0
OUTPUT_BYTES = 4000
ENTRIES_PER_S = 50
"""Entries that it gets done at the slowest."""

_PROGRAM = Path(__file__).with_name("sdk_program.py")
_KEPT = (
    "WANDB_CREDENTIALS_FILE",
    "WANDB_ERROR_REPORTING",
    "WANDB_HTTP_PROXY",
    "WANDB_HTTPS_PROXY",
    "WANDB_HTTP_TIMEOUT",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_INSECURE_DISABLE_SSL",
    "WANDB_ORGANIZATION",
    "WANDB__PROXIES",
)
"""The SDK's settings that stay as they are. The others are those of somebody's run, which must not
become the one that uploads, or are set here."""
_KEPT_PREFIXES = ("WANDB_X_GRAPHQL_", "WANDB_X_FILE_TRANSFER_")
_DENIED = re.compile(
    r"permission denied|\b40[13]\b|unauthorized|not authorized|access denied", re.I
)


def require_sdk() -> None:
    """Raise UsageError where there is no SDK."""
    if importlib.util.find_spec("wandb") is None:
        raise UsageError(
            "wbfs put needs the wandb SDK, which is not installed: run pip install 'wbfs[put]'"
        )


def run_sdk(
    order: Mapping[str, Any],
    credentials: Credentials,
    *,
    timeout_s: float,
    size: int = 0,
    on_read: Callable[[int], None] = lambda count: None,
    checkpoint: Callable[[], None],
) -> dict[str, Any]:
    """Have the SDK carry out an order; return what it says.

    `timeout_s` is for all but the `size` bytes to be sent. `on_read` is told how many the SDK has
    read; `checkpoint` is called meanwhile, and raises where nobody waits any more. Raises
    AccessDenied, RemoteError, UsageError for what it does not take, and StoreError.
    """
    allowed_s = START_TIMEOUT_S + timeout_s + size / SLOWEST_BYTES_PER_S
    deadline = time.monotonic() + allowed_s + len(order["entries"]) / ENTRIES_PER_S
    with _saying_where():
        # What is in there may be the user's only, and goes whatever happens.
        place = tempfile.TemporaryDirectory(prefix="wbfs-put-", ignore_cleanup_errors=True)
    with place as name:
        return _run_in(
            Path(name), order, credentials, deadline, on_read=on_read, checkpoint=checkpoint
        )


@contextlib.contextmanager
def _saying_where() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"can't start the SDK in a temporary folder: {error.strerror}; make room there, or name"
            " another folder in TMPDIR"
        ) from error


def _run_in(
    folder: Path,
    order: Mapping[str, Any],
    credentials: Credentials,
    deadline: float,
    *,
    on_read: Callable[[int], None],
    checkpoint: Callable[[], None],
) -> dict[str, Any]:
    with _saying_where(), (folder / "output").open("wb") as output:
        (folder / "order.json").write_text(json.dumps(order))
        process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_environment(credentials, folder),
            start_new_session=True,
        )
    try:
        assert process.stdin is not None
        # It may have ended already: that shows below.
        with contextlib.suppress(BrokenPipeError), process.stdin as its_input:
            its_input.write(json.dumps(_secrets(credentials)).encode())
        while not _ends(process, POLL_S):
            checkpoint()
            on_read(_number_in(folder / "read"))
            if time.monotonic() > deadline:
                raise RemoteTimeout(
                    "the SDK does not end: the server or the network is slow; try again, or"
                    " raise --timeout"
                )
    finally:
        process.terminate()
        if not _ends(process, END_TIMEOUT_S):
            process.kill()
            process.wait()
    return _result(folder, credentials)


def _secrets(credentials: Credentials) -> dict[str, Any]:
    """Return the settings that no list of processes may show, as the environment would."""
    secrets: dict[str, Any] = {}
    if credentials.identity_token_file is None:
        secrets["api_key"] = credentials.read_key().value
    if credentials.extra_headers:
        secrets["x_extra_http_headers"] = dict(credentials.extra_headers)
    return secrets


def _environment(credentials: Credentials, folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WANDB") or name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    login = {
        "WANDB_BASE_URL": credentials.base_url,
        "WANDB_USERNAME": credentials.username,
        "WANDB_USER_EMAIL": credentials.email,
    }
    named = {name: value for name, value in login.items() if value}
    bundle = kept.get("REQUESTS_CA_BUNDLE") or kept.get("CURL_CA_BUNDLE")
    if bundle and not (kept.get("SSL_CERT_FILE") or kept.get("SSL_CERT_DIR")):
        # The SDK's service reads these alone.
        named["SSL_CERT_DIR" if os.path.isdir(bundle) else "SSL_CERT_FILE"] = bundle
    return (
        kept
        | named
        | {
            # It leaves some there.
            "TMPDIR": str(folder),
            "WANDB_DIR": str(folder),
            "WANDB_DATA_DIR": str(folder),
            "WANDB_CACHE_DIR": str(folder),
            "WANDB_CONFIG_DIR": str(folder),
            "WANDB_SILENT": "true",
            "WANDB_DISABLE_CODE": "true",
            # A run that does nothing but this has nothing to tell.
            "WANDB_X_DISABLE_STATS": "true",
            "WANDB_X_DISABLE_META": "true",
            "WANDB_X_DISABLE_MACHINE_INFO": "true",
            "WANDB_X_SAVE_REQUIREMENTS": "false",
        }
    )


def _result(folder: Path, credentials: Credentials) -> dict[str, Any]:
    """Return what the program wrote. Raises WbfsError where it failed."""
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        said = (folder / "output").read_bytes()[-OUTPUT_BYTES:].decode(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it says nothing")
        result = {"error": f"it ended: {last}", "kind": ""}
    if "error" in result:
        raise _error(str(result["error"]), str(result["kind"]), credentials)
    return result


def _error(said: str, kind: str, credentials: Credentials) -> WbfsError:
    """Return what the SDK says in words that hold no secret."""
    # Its own program tells ends of lines by two characters.
    text = without_secrets(said.removesuffix("\\n"))
    if credentials.identity_token_file is None:
        text = text.replace(credentials.read_key().value, "***")
    told = f"the wandb SDK says: {text.strip()}"
    if kind == "AuthenticationError" or _DENIED.search(text):
        return AccessDenied(told)
    # What it says of words that it can't take.
    return UsageError(told) if kind == "ValueError" else RemoteError(told)


def _ends(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _number_in(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0

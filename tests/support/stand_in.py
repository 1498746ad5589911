"""The stand-in server as tests use it: a process of its own, always taken down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prepared
import requests
import urllib3
from ports import free_port

from wbfs.devserver.request_log import LoggedRequest

START_TIMEOUT_S = 100.0
STOP_TIMEOUT_S = 50.0
CALL_TIMEOUT_S = 50.0
SHOWN_REQUESTS = 40
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PROGRAM = "from wbfs.cli.devserver import devserver; devserver()"


class StandIn:
    """A running `wbfs devserver`."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        """Start it on free ports and return once it answers."""
        self.data_dir = data_dir
        self._options = options
        # Not those of the system's choice: while it is started again, nobody else is to get them.
        self._ports = (free_port(), free_port())
        self._session = requests.Session()
        # A proxy of the environment is not for loopback.
        self._session.trust_env = False
        self._start()

    def _start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        addresses = self.data_dir / "devserver.json"
        addresses.unlink(missing_ok=True)
        self._log = (self.data_dir / "devserver.log").open("ab")
        command = ["-c", PROGRAM, "--data-dir", str(self.data_dir), *self._options]
        command += ["--port", str(self._ports[0]), "--file-port", str(self._ports[1])]
        self._process = prepared.start(
            prepared.SDK_AND_STAND_IN,
            *command,
            env=os.environ,
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"the stand-in server does not start:\n{self.log()}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            found: dict[str, str] = json.loads((self.data_dir / "devserver.json").read_text())
            self.base_url, self.files_url = found["base_url"], found["files_url"]
            self.api_key = (self.data_dir / "api-key").read_text().strip()
            return self._call("GET", "ready").ok
        except (OSError, ValueError):
            return False

    def _call(self, method: str, name: str, document: object = None) -> requests.Response:
        with warnings.catch_warnings():
            # Also while a test gives it a bad certificate.
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            return self._session.request(
                method,
                f"{self.base_url}/_devserver/{name}",
                json=document,
                auth=("api", self.api_key),
                verify=False,
                timeout=CALL_TIMEOUT_S,
            )

    def log(self) -> str:
        """What the server printed."""
        return (self.data_dir / "devserver.log").read_text()

    def stop(self) -> None:
        """End the server, by force if it must be."""
        self._session.close()
        for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGKILL):
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_TIMEOUT_S)
                break
            except subprocess.TimeoutExpired:
                continue
        self._log.close()

    def end(self, number: signal.Signals) -> int:
        """Send the server a signal that ends it; return its exit code."""
        self._process.send_signal(number)
        return self._process.wait(STOP_TIMEOUT_S)

    def restart(self) -> None:
        """End it and start it again, with the same data and ports."""
        self.stop()
        self._start()

    @property
    def ca_file(self) -> Path:
        """Who trusts the certificate in it trusts the server, if that speaks TLS."""
        return self.data_dir / "ca.pem"

    @property
    def public_dir(self) -> Path:
        """The folder of files that need no signature."""
        return self.data_dir / "public"

    @property
    def public_url(self) -> str:
        """Where the files of `public_dir` are."""
        return f"{self.files_url}/public"

    def env(self, home: Path, api_key: str | None = None) -> dict[str, str]:
        """Return a whole environment for a program that uses the SDK, below `home` only."""
        home.mkdir(parents=True, exist_ok=True)
        # The SDK's Python reads one, its Go the other.
        names = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE") if self.ca_file.exists() else ()
        trusted = dict.fromkeys(names, str(self.ca_file))
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WANDB", "WBFS"))
            and not name.lower().endswith("_proxy")
            and name not in CA_VARIABLES
        }
        return kept | {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CACHE_HOME": str(home / "xdg-cache"),
            "NETRC": str(home / "netrc"),
            "WANDB_BASE_URL": self.base_url,
            "WANDB_API_KEY": api_key or self.api_key,
            "WANDB_CACHE_DIR": str(home / "wandb-cache"),
            "WANDB_DATA_DIR": str(home / "wandb-data"),
            "WANDB_CONFIG_DIR": str(home / "wandb-config"),
            "WANDB_DIR": str(home),
            "WANDB_ARTIFACT_DIR": str(home / "artifacts"),
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
            **trusted,
        }

    def run_sdk(
        self,
        program: str,
        home: Path,
        *arguments: str | Path,
        timeout_s: float = prepared.TIMEOUT_S,
    ) -> str:
        """Run a program that logs something with the SDK; return the last word that it prints.

        That is the entity which it logged to.
        """
        done = prepared.run_sdk("-c", program, *arguments, env=self.env(home), timeout_s=timeout_s)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.split()[-1]

    def accounts(self, document: Mapping[str, Any]) -> None:
        """Make users, teams and organizations; see `wbfs.devserver.data.accounts`."""
        answer = self._call("PUT", "accounts", document)
        assert answer.ok, answer.text

    def requests(
        self, *, port: str | None = None, operation: str | None = None, method: str | None = None
    ) -> list[LoggedRequest]:
        """Return the requests since they were last cleared, oldest first."""
        found = [LoggedRequest(**row) for row in self._call("GET", "requests").json()]
        return [
            request
            for request in found
            if port in (None, request.port)
            and operation in (None, request.operation)
            and method in (None, request.method)
        ]

    def last_requests(self) -> str:
        """Return the last requests, one a line, for a failed test's report."""
        try:
            found = self.requests()
        except requests.RequestException as error:
            return f"the server does not answer: {type(error).__name__}"
        return "\n".join(
            f"{one.number} {one.port} {one.method} {one.operation or one.path} {one.range}"
            f" -> {one.status}, {one.bytes_sent} bytes"
            for one in found[-SHOWN_REQUESTS:]
        )

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        assert self._call("DELETE", "requests").ok

    @contextmanager
    def faults(self, **settings: Any) -> Iterator[None]:
        """Put faults in force while the context lasts; see `wbfs.devserver.faults`."""
        answer = self._call("PUT", "faults", settings)
        assert answer.ok, answer.text
        try:
            yield
        finally:
            assert self._call("DELETE", "faults").ok


def users_of(keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return users for `StandIn.accounts`, none of whom administers it, by their names and keys."""
    return [
        {"name": name, "email": f"{name}@example.com", "admin": False, "api_key": key}
        for name, key in keys.items()
    ]

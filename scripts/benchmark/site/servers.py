"""The servers of a run: nginx before the stand-in server, and the link; each ends with the run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mounts import wait_until

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
HOST = "127.0.0.1"

NGINX = """
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log {home}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {home}/nginx-tmp;
    proxy_temp_path {home}/nginx-tmp;
    fastcgi_temp_path {home}/nginx-tmp;
    uwsgi_temp_path {home}/nginx-tmp;
    scgi_temp_path {home}/nginx-tmp;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Accept-Encoding "";
    sub_filter_once off;
    sub_filter_types application/json;
    {certificate}
    upstream api {{ server {api}; keepalive 32; }}
    server {{
        listen {host}:{files}{tls};
        root {objects};
        location /plain/ {{ alias {plain}/; autoindex on; }}
    }}
    {apis}
}}
"""
API = """
    server {{
        listen {host}:{port}{tls};
        sub_filter "{stored}" "{public}";
        proxy_redirect "{stored}" "{public}";
        location / {{ proxy_pass http://api; }}
    }}
"""
CERTIFICATE = "ssl_certificate {file}; ssl_certificate_key {file};"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the servers are for a client that is near, or far; ports of loopback."""

    scheme: str
    api_port: int
    files_port: int

    @property
    def base_url(self) -> str:
        """The W&B server's URL."""
        return f"{self.scheme}://{HOST}:{self.api_port}"

    @property
    def files_url(self) -> str:
        """The file server's URL."""
        return f"{self.scheme}://{HOST}:{self.files_port}"

    @property
    def plain_url(self) -> str:
        """The folder of the same files under their own names."""
        return f"{self.files_url}/plain"


def start_nginx(
    stack: ExitStack,
    home: Path,
    *,
    certificate: Path | None,
    stand_in: tuple[str, str],
    objects: Path,
    plain: Path,
    files_port: int,
    apis: dict[int, str],
) -> int:
    """Serve the files' folders, and the stand-in's API once for each; return nginx's process.

    certificate: with its key, None for plain HTTP. stand_in: the URLs of its API and its files.
    objects: the folder that the latter serves. apis: by port, the URL of the files that clients are
    told there.
    """
    tls = " ssl" if certificate else ""
    api, stored = stand_in
    config = home / "nginx.conf"
    config.write_text(
        NGINX.format(
            home=home,
            host=HOST,
            tls=tls,
            certificate=CERTIFICATE.format(file=certificate) if certificate else "",
            files=files_port,
            api=api.removeprefix("http://"),
            objects=objects,
            plain=plain,
            apis="".join(
                API.format(host=HOST, port=port, tls=tls, stored=stored, public=public)
                for port, public in apis.items()
            ),
        )
    )
    # Debian has it where only root's PATH leads to.
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    return start(
        stack,
        [program, "-e", f"{home}/nginx-error.log", "-p", str(home), "-c", str(config)],
        ports=[files_port, *apis],
    )


def start(stack: ExitStack, command: list[str], *, ports: list[int]) -> int:
    """Start a server, wait until it listens, have the stack end it; return its process."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)

    def is_up() -> bool:
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
        return all(listens(port) for port in ports)

    stack.callback(end)
    wait_until(is_up, timeout_s=START_TIMEOUT_S, what=f"{command[0]} listens")
    return process.pid


def listens(port: int) -> bool:
    """Whether a connection to the port is taken."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]

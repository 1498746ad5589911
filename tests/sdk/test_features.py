"""The real SDK falls back as it should where the server has none of its features."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from sdk import run_program
from stand_in import StandIn
from starlette.applications import Starlette

from wbfs.devserver.api import FEATURES, ApiSettings, create_api
from wbfs.devserver.data.database import Database
from wbfs.devserver.objects.files import create_files
from wbfs.devserver.objects.origin import Origin

pytestmark = pytest.mark.sdk

STOP_TIMEOUT_S = 50.0


def listen() -> tuple[socket.socket, str]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    return listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


def serve(app: Starlette, listening: socket.socket) -> tuple[uvicorn.Server, threading.Thread]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    return server, thread


@pytest.fixture
def plain_server(tmp_path: Path) -> Iterator[str]:
    """The URL of a server whose features are all off."""
    (api_socket, api_url), (files_socket, files_url) = listen(), listen()
    database = Database(tmp_path / "plain.sqlite")
    origin = Origin(tmp_path / "origin", base_url=lambda: files_url)
    api = create_api(
        database=database,
        origin=origin,
        base_url=api_url,
        settings=ApiSettings(
            admin_api_key="a" * 40,
            features=dict.fromkeys(FEATURES, False),
            xxhash_digests_enabled=False,
        ),
    )
    files = create_files(origin=origin, public=tmp_path / "public")
    running = [serve(api, api_socket), serve(files, files_socket)]
    yield api_url
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(STOP_TIMEOUT_S)
        assert not thread.is_alive()
    database.close()


def test_log_and_download_without_features(
    stand_in: StandIn, plain_server: str, tmp_path: Path
) -> None:
    environment = stand_in.env(tmp_path / "home", api_key="a" * 40)
    environment["WANDB_BASE_URL"] = plain_server
    result = run_program("download", environment, tmp_path, "plain", "xxh128")
    assert result["equal"] is True
    assert result["digest"][0] == result["digest"][2]
    assert result["digest"][1] == "MANIFEST_MD5"

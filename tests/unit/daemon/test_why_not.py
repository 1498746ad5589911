"""What is said where libfuse could not mount, and of errors that come through several hands."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wbfs.daemon import mount
from wbfs.daemon.mounts import mountpoint
from wbfs.model.errors import NoDescriptor, NoFuse, RemoteTimeout, UsageError, while_doing
from wbfs.model.settings import MountSettings

FAILURE = RuntimeError("fuse_session_mount failed")


def settings(*, allow_other: bool) -> MountSettings:
    here = Path("/here")
    return MountSettings(
        cache_dir=here,
        sdk_cache_dir=here,
        source="",
        mountpoint=here,
        log_file=None,
        uid=0,
        gid=0,
        allow_other=allow_other,
    )


@pytest.mark.parametrize("allow_other", [False, True])
def test_a_device_that_is_forbidden(monkeypatch: pytest.MonkeyPatch, allow_other: bool) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    why = mount._why_not(settings(allow_other=allow_other), FAILURE)
    assert isinstance(why, NoFuse)
    assert "/dev/fuse can't be opened (Operation not permitted)" in str(why)
    assert "user_allow_other" not in str(why)


def test_no_descriptor_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)
    why = mount._why_not(settings(allow_other=False), FAILURE)
    assert isinstance(why, NoDescriptor)
    assert "can't mount on /here" in str(why)
    assert "ulimit -Hn" in str(why)


@pytest.mark.parametrize(
    ("uid", "allow_other", "conf", "is_that"),
    [
        (1000, True, "#user_allow_other\n", True),
        (1000, True, None, True),
        (1000, True, "user_allow_other\n", False),
        (1000, False, None, False),
        (0, True, None, False),
    ],
)
def test_whether_users_may_allow_others(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    uid: int,
    allow_other: bool,
    conf: str | None,
    is_that: bool,
) -> None:
    monkeypatch.setattr(mountpoint, "FUSE_CONF", tmp_path / "fuse.conf")
    if conf is not None:
        (tmp_path / "fuse.conf").write_text(conf)
    monkeypatch.setattr(os, "open", lambda path, flags: os.dup(0))
    monkeypatch.setattr(os, "getuid", lambda: uid)
    why = mount._why_not(settings(allow_other=allow_other), FAILURE)
    assert "can't be opened" not in str(why)
    assert ("user_allow_other" in str(why)) is is_that
    assert is_that or "fuse_session_mount failed" in str(why)


def test_what_was_being_done_is_said_once() -> None:
    error = RemoteTimeout("no answer")
    for _ in range(3):
        error = while_doing("read a/b", error)  # type: ignore[assignment]
    assert str(error) == "can't read a/b: no answer"
    assert isinstance(error, RemoteTimeout)
    assert str(while_doing("list a", UsageError("x"))) == "can't list a: x"

"""Commands between processes of the lab."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.control import call, serve
from datakit_lab.errors import LabError, LabUnavailable


def echo(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"did": [f"echo {arguments['text']}"]}


def refuse(arguments: dict[str, Any]) -> dict[str, Any]:
    raise LabError(f"cannot {arguments['text']}", fix="do not")


@pytest.mark.parametrize("folder", ["short", "x" * 120])
def test_a_command_is_answered_however_long_the_path(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "control.sock"
    path.parent.mkdir()
    with serve(path, {"echo": echo}):
        assert call(path, "echo", text="wörd\n") == {"did": ["echo wörd\n"]}
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_an_error_of_the_other_side_is_raised_here_with_its_next_step(tmp_path: Path) -> None:
    with serve(tmp_path / "s", {"refuse": refuse}), pytest.raises(LabError, match="cannot dance") as refusal:
        call(tmp_path / "s", "refuse", text="dance")
    assert refusal.value.fix == "do not"


def test_nobody_at_the_socket_is_temporary(tmp_path: Path) -> None:
    with pytest.raises(LabUnavailable, match="does not answer"):
        call(tmp_path / "s", "echo")


def test_a_slow_command_does_not_hold_up_another(tmp_path: Path) -> None:
    release = threading.Event()

    def wait(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"did": [str(release.wait(60))]}

    with serve(tmp_path / "s", {"wait": wait, "echo": echo}):
        slow = threading.Thread(target=call, args=(tmp_path / "s", "wait"))
        slow.start()
        assert call(tmp_path / "s", "echo", text="now") == {"did": ["echo now"]}
        release.set()
        slow.join()

"""The demo's own machinery; the story itself is told by ``make demo``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from datakit_lab.demo import Demo
from rich.console import Console

_LOAD = """#!/bin/sh
echo 'airline.flights: loading' >&2
printf '[{"text": "'
head -c 1000000 /dev/zero | tr '\\0' x
printf '"}]'
echo 'airline.flights: done' >&2
"""


def test_a_long_answer_of_a_load_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "datakit"
    command.write_text(_LOAD)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    meanwhile: list[str] = []

    reports = Demo(Console(quiet=True))._load("finance", lambda: meanwhile.append("rotated"))

    assert [len(report["text"]) for report in reports] == [1_000_000]
    assert meanwhile == ["rotated"]

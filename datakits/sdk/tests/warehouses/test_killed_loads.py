"""A load that dies anywhere leaves the old or the new table, and its retry completes it exactly (kill -9, real)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from datakit.model.manifest import LoadMode

if TYPE_CHECKING:
    from datakit_lab.testing import LabDatabase

PROGRAM = Path(__file__).with_name("killed_loads.py")
OLD_ROWS = [("1", "one"), ("2", "two")]
NEW_ROWS = {
    LoadMode.REPLACE: [("2", "zwei", "22"), ("3", "drei", "33"), ("4", "vier", "44")],
    LoadMode.MERGE: [("1", "one", None), ("2", "zwei", "22"), ("3", "drei", "33"), ("4", "vier", "44")],
}
OLD_LOAD, NEW_LOAD = ["old", 1, 2, "2"], ["new", 2, 3, "4"]


def try_every_step(kind: str, settings: dict[str, Any], mode: LoadMode, folder: Path, dsn: str = "") -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, kind, json.dumps(settings), mode, folder],
        env=os.environ | {"TEST_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(steps) > 20
    assert [step["ended"] for step in steps] == [-signal.SIGKILL] * (len(steps) - 1) + [0]
    for step in steps:
        assert step["seen"]["load"] in (OLD_LOAD, NEW_LOAD), step
        is_new = step["seen"]["load"] == NEW_LOAD
        assert_state(step["seen"], mode if is_new else None)
        assert step["after"]["load"] == NEW_LOAD, step
        assert step["after"]["left"] == [], step
        assert_state(step["after"], mode)
    seen = [step["seen"]["load"] == NEW_LOAD for step in steps]
    assert seen == sorted(seen), "the table changes at one step"
    assert seen.count(False) > 15
    assert seen.count(True) > 0


def assert_state(state: dict[str, Any], mode: LoadMode | None) -> None:
    columns = ["id", "name"] if mode is None else ["id", "name", "born"]
    assert state["columns"] == columns
    # the metadata columns lie between those of the first load and the added one, so rows are compared without them
    rows = [tuple(value for value in row if value is None or not looks_like_metadata(value)) for row in state["rows"]]
    assert rows == (OLD_ROWS if mode is None else NEW_ROWS[mode])


def looks_like_metadata(value: str) -> bool:
    return value in {"old", "new"} or value.startswith("2026-01-02")


@pytest.mark.parametrize("mode", [LoadMode.REPLACE, LoadMode.MERGE])
def test_a_load_into_duckdb_that_dies_at_any_step_leaves_old_or_new(mode: LoadMode, tmp_path: Path) -> None:
    try_every_step("duckdb", {}, mode, tmp_path)


@pytest.mark.parametrize("mode", [LoadMode.REPLACE, LoadMode.MERGE])
def test_a_load_into_postgres_that_dies_at_any_step_leaves_old_or_new(
    mode: LoadMode, tmp_path: Path, postgres_settings: dict[str, Any], lab_database: LabDatabase
) -> None:
    try_every_step("postgres", postgres_settings, mode, tmp_path, lab_database.dsn())

"""The benchmark of the registry flow runs, and what it pins is what the commands make of a tree of that size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.release.measure import CommandFailed, Figures, Stage
from benchmarks.release.trees import Size, registry, status_tree


@pytest.mark.slow
def test_every_command_of_the_registry_flow_is_timed() -> None:
    command = [sys.executable, "-m", "benchmarks.release", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("status", "--offline", "build", "changed datakit", "never released", "released already"):
        assert name in done.stdout


def test_what_status_is_timed_with_is_pinned_by_a_command_and_behind(tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as address:
        status_tree(tmp_path / "tree", address, Size(datakits=2, environments=2, warehouses=3))
        command = [sys.executable, "-m", "datakit", "status", "--json"]
        said = subprocess.run(command, cwd=tmp_path / "tree", capture_output=True, text=True, check=True)
    rows = json.loads(said.stdout)["rows"]
    assert len(rows) == 2 * 2 * 3
    assert {(row["by_command"], row["behind_by"]) for row in rows} == {(True, 2)}


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="ended with 78"):
        Stage(tmp_path, "127.0.0.1:1", tmp_path).run(["status"])


def test_a_row_is_the_median_and_its_ends() -> None:
    figures = Figures("status", aim=1)
    for took in ((0.5, 0.4), (0.9, 0.6), (0.7, 0.5)):
        figures.add(took)
    assert figures.cells() == ["status", "0.70", "0.50", "0.90", "0.50", "< 1"]

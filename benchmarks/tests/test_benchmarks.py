"""The benchmarks run: every script of theirs, with few rows. How fast anything is, is no test's business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ROOT, results


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--quick", "--rows", "2000", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_ours_and_the_hand_written_scripts_load_what_the_server_has() -> None:
    # The benchmark itself compares what landed with what was served, and fails if it differs.
    done = bench("--only", "ours|hand|drain|driver")
    assert done.returncode == 0, done.stdout + done.stderr
    for row in ("socket drain, 32 KB packets", "driver alone", "hand-written", "ours"):
        assert row in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.slow
def test_the_other_tools_load_what_the_server_has() -> None:
    done = bench("--only", "dlt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dlt (pyarrow)" in done.stdout


def test_a_contender_that_nobody_knows_is_refused() -> None:
    done = bench("--only", "nobody")
    assert done.returncode == 2
    assert "no contender matches 'nobody'" in done.stderr


def test_results_replace_the_former_ones_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    results.write(page, "new")
    assert page.read_text() == f"before\n{results.BEGIN}\n\nnew\n\n{results.END}\nafter\n"


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match="has no"):
        results.write(page, "new")

"""A minute of what ``make soak`` does for ten, always with the same chances."""

from __future__ import annotations

from pathlib import Path

import pytest

from .soak.intervals import total, united, without
from .soak.run import Plan, run

SECONDS = 60


@pytest.mark.slow
def test_nothing_is_unready_unread_or_locked_beyond_what_faults_excuse(tmp_path: Path) -> None:
    result = run(Plan(SECONDS, seed=20, without=("in the vault first",)), tmp_path)

    assert [] == result.problems
    assert result.findings.reads > 1000
    kinds = {name.split(" ")[0] for name in result.soak.done}
    assert {"KDC", "vault", "key"} <= kinds


def test_time_that_is_excused_is_taken_away() -> None:
    assert [(0.0, 1.0), (4.0, 5.0)] == without([(0.0, 2.0), (3.0, 5.0)], [(1.0, 4.0)])
    assert [] == without([(1.0, 2.0)], [(0.0, 1.5), (1.2, 3.0)])
    assert [(1.0, 2.0)] == without([(1.0, 2.0)], [(2.0, 3.0), (0.0, 1.0)])


def test_time_that_several_saw_is_counted_once() -> None:
    assert 4.0 == total(united([(3.0, 4.0), (0.0, 2.0), (1.0, 3.0)]))

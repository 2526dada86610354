"""What has to be true of airline-source before it is released. Needs no source system."""

import subprocess
import sys
from pathlib import Path

import pytest
from datakit.model.project import Project

FOLDER = Path(__file__).parents[1]
SOURCE = Project.find(FOLDER).sources()["airline-source"]


def test_datakit_check_finds_no_problem_and_leaves_nothing_unchecked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "datakit", "check", str(FOLDER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no contract yet" not in done.stdout


@pytest.mark.parametrize("dataset", SOURCE.manifest.datasets)
def test_every_dataset_has_a_contract_with_its_key(dataset: str) -> None:
    contract = SOURCE.contracts[dataset]
    assert contract.dataset == f"airline.{dataset}"
    assert contract.key == SOURCE.manifest.datasets[dataset].key


def test_what_changes_is_loaded_by_a_cursor_that_moves_with_every_change() -> None:
    cursors = {name: dataset.cursor.column for name, dataset in SOURCE.manifest.datasets.items() if dataset.cursor}
    assert cursors == {"flights": "ModifiedAt", "weather": "ModifiedAt", "planes": "RowVersion"}

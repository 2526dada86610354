"""What has to be true of sqlserver-bronze before it is released."""

import subprocess
import sys
from pathlib import Path

from datakit.model.manifest import LoadMode, Naming, SchemaPolicy
from datakit.model.project import Project

FOLDER = Path(__file__).parents[1]
BRONZE = Project.find(FOLDER).bronze("sqlserver-bronze")


def test_datakit_check_finds_no_problem() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "datakit", "check", str(FOLDER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_source_that_it_includes_is_in_the_tree_and_speaks_its_language() -> None:
    assert [source.manifest.name for source in BRONZE.sources] == [item.datakit for item in BRONZE.manifest.sources]
    assert {source.manifest.system for source in BRONZE.sources} == {BRONZE.manifest.system}


def test_the_standard_follows_the_source_in_names_that_every_warehouse_takes() -> None:
    standard = BRONZE.manifest
    assert (standard.naming, standard.schema_changes) == (Naming.SNAKE_CASE, SchemaPolicy.EVOLVE)
    assert standard.mode is LoadMode.REPLACE

"""The DAG files that docs/airflow.md shows work as they stand."""

from __future__ import annotations

import re

import pytest

from .house import REPOSITORY, House

PAGE = (REPOSITORY / "docs/airflow.md").read_text()
SNIPPETS = re.findall(r"^```py dags/(\w+)\.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_there_are_some() -> None:
    assert len(SNIPPETS) > 1


@pytest.mark.parametrize(("name", "text"), SNIPPETS)
def test_a_dag_file_of_the_page_is_parsed(house: House, name: str, text: str) -> None:
    dags = house.file(text, name)
    assert dags
    for dag in dags.values():
        assert dag.task_ids

"""The page that says what runs where: the locks of the tree, as ``datakit status`` reads them."""

from __future__ import annotations

import re
from html import unescape

import pytest
from airflow_datakit._status_page import status_page
from datakit.errors import InvalidFile

from .house import House

LOCK = """\
environment: prod
warehouses:
  finance:
    sqlserver-bronze:
      version: 1.2.3
      digest: sha256:2f3a0f8f1c2c4a6e9d1b7c5e3a9f8d7c6b5a4f3e2d1c0b9a8f7e6d5c4b3a2f1e
      contract: sha256:8c1d0e2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d
      by: Ann Example <ann@corp.example>
      at: 2026-11-22T09:30:00Z
      why: "promoted from qa: <b>quarter end</b>"
"""


def text_of(page: str) -> str:
    """Return what a reader sees, a line for each row of a table."""
    rows = re.sub(r"</tr>|</h2>|</p>", "\n", page.partition("</style>")[2])
    return unescape(re.sub(r"<[^>]*>", " ", rows))


def test_every_environment_is_there_and_this_airflows_comes_first(house: House) -> None:
    house.environment("prod")
    house.put("warehouses/environments/prod.lock.yaml", LOCK)

    page = status_page()

    seen = text_of(page)
    assert re.search(r"test\s+this Airflow's environment", seen)
    assert seen.index("this Airflow's environment") < seen.index("prod")
    assert re.search(r"marketing\s+sqlserver-bronze\s+0\.1\.0 \(not pinned: the tree's\)", seen)
    line = next(line for line in seen.splitlines() if "1.2.3" in line)
    for part in (
        "finance",
        "sqlserver-bronze",
        "2f3a0f8f1c2c",
        "2026-11-22 09:30 UTC",
        "Ann Example <ann@corp.example>",
    ):
        assert part in line
    assert "promoted from qa: <b>quarter end</b>" in line  # as text
    assert "<b>quarter" not in page


def test_what_a_frozen_environment_does_not_pin_runs_nowhere(house: House) -> None:
    house.environment("prod", frozen=True)

    assert re.search(r"finance\s+sqlserver-bronze\s+nothing: frozen, not pinned", text_of(status_page()))


def test_a_pin_that_no_command_wrote_is_marked(house: House) -> None:
    house.environment("prod")
    house.put("warehouses/environments/prod.lock.yaml", LOCK)

    assert re.search(r"1\.2\.3\s+edited by hand", text_of(status_page()))


def test_the_page_follows_the_tree_while_airflow_runs(house: House) -> None:
    assert "prod" not in text_of(status_page())
    house.environment("prod")
    assert "prod" in text_of(status_page())


def test_a_broken_file_is_named(house: House) -> None:
    house.put("warehouses/environments/prod.yaml", "name: [")

    with pytest.raises(InvalidFile, match=r"prod\.yaml"):
        status_page()

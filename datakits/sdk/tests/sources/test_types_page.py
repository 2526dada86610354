"""The page about types shows the table that the code uses."""

from pathlib import Path

from datakit.sources.sqlserver.type_table import render_type_table

PAGE = Path(__file__).parents[4] / "docs" / "types.md"


def test_the_page_shows_the_table_of_the_code() -> None:
    assert render_type_table() in PAGE.read_text(encoding="utf-8")

"""Values and names that no naive path survives, from SQL Server into both warehouses."""

from __future__ import annotations

import time
from typing import Any

import psutil
import pytest
from datakit_lab.data.nasty import LONG_NAME, ODD_NAMES, WIDEST
from datakit_lab.testing import LabSqlServer

from .house import FINANCE, MARKETING, Command, House

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def nasty_server(shop_server: LabSqlServer) -> LabSqlServer:
    shop_server.load("nasty")
    return shop_server


@pytest.fixture
def nasty(house: House, nasty_server: LabSqlServer) -> House:
    house.database = "Nasty"
    house.located()
    return house


def landed(house: House, warehouse: str, table: str, key: str = "ID", **dataset: Any) -> list[dict[str, Any]]:
    house.datasets({"nasty": {"table": table, "key": [key], **dataset}})
    house.takes(warehouse, "nasty", mode="replace", naming="preserve")
    house.loaded(warehouse, dataset="nasty")
    rows: list[dict[str, Any]] = house.table(warehouse, "bronze.nasty").to_pylist()
    return sorted(rows, key=lambda row: int(row[key]))


def test_names_with_brackets_quotes_dots_and_spaces_arrive_as_they_are(nasty: House) -> None:
    [row] = landed(nasty, MARKETING, "[odd.schema [x]]].['tab le\"]].表]")
    assert {name: str(place) for place, name in enumerate(ODD_NAMES)} == {
        name: value for name, value in row.items() if name in ODD_NAMES
    }


def test_a_name_longer_than_postgresql_keeps_is_refused_and_never_cut(nasty: House) -> None:
    nasty.datasets({"nasty": {"table": "[odd.schema [x]]].['tab le\"]].表]", "key": ["ID"]}})
    nasty.takes(FINANCE, "nasty", mode="replace", naming="preserve")
    nasty.load(FINANCE, dataset="nasty").is_refused("ContractError", 78, LONG_NAME, "63")


def test_1024_columns_arrive(nasty: House, warehouse: str) -> None:
    rows = landed(nasty, warehouse, "dbo.Wide")
    assert [1, 2, 3] == [row["ID"] for row in rows]
    assert WIDEST == len([name for name in rows[0] if not name.startswith("_dk_")])
    assert ("v1024", 1023) == (rows[0]["C1024"], rows[0]["C1023"])


def test_zero_rows_make_an_empty_table_with_its_columns(nasty: House, warehouse: str) -> None:
    assert [] == landed(nasty, warehouse, "dbo.NoRows")
    assert {"ID", "Name", "At"} <= set(nasty.table(warehouse, "bronze.nasty").column_names)


def test_half_a_surrogate_pair_is_refused_with_column_and_row(nasty: House, warehouse: str) -> None:
    nasty.datasets({"nasty": {"table": "dbo.LoneSurrogates", "key": ["ID"]}})
    nasty.takes(warehouse, "nasty", mode="replace")
    nasty.load(warehouse, dataset="nasty").is_refused("ValueRefused", 78, "Name", "ID=2", "dbo.LoneSurrogates")
    assert "nasty" not in nasty.tables(warehouse)


def test_text_of_every_collation_arrives_and_empty_is_not_null(nasty: House, warehouse: str) -> None:
    first, empty, null = landed(nasty, warehouse, "dbo.Collations")
    assert ("café", "Привет", "Καλημέρα", "日本語", "日本語 ✈") == tuple(
        first[name] for name in ("Latin", "Cyrillic", "Greek", "Japanese", "Utf8")
    )
    assert ("", None) == (empty["Latin"], null["Latin"])


def test_a_digit_below_the_microsecond_is_refused_with_column_and_row(nasty: House, warehouse: str) -> None:
    nasty.datasets({"nasty": {"table": "dbo.AllTypes", "key": ["ID"]}})
    nasty.takes(warehouse, "nasty", mode="replace", naming="preserve")
    nasty.load(warehouse, dataset="nasty").is_refused("ValueRefused", 78, "ID=", "dbo.AllTypes", "sub_microsecond")
    assert "nasty" not in nasty.tables(warehouse)


def test_the_edges_of_every_type_arrive_in_both_warehouses_alike(nasty: House) -> None:
    tables = {
        warehouse: landed(nasty, warehouse, "dbo.AllTypes", sub_microsecond="column")
        for warehouse in (FINANCE, MARKETING)
    }
    for rows in tables.values():
        low, high, plain, _special, null = rows
        assert (-(2**63), 2**63 - 1) == (int(low["BigValue"]), int(high["BigValue"]))
        assert "9" * 38 == str(high["WholeDecimal"]).split(".")[0]
        assert ("0001-01-01", "9999-12-31") == (str(low["DateValue"]), str(high["DateValue"]))
        assert "9999-12-31 23:59:59.999999" == str(high["DateTime2Value"])
        assert "🛫🛬👩‍✈️e\u0301" == high["NVarCharValue"]
        assert "trailing  " == plain["VarCharValue"]
        assert 10_000 == len(high["NVarCharMax"])
        assert {None} == {value for name, value in null.items() if name.endswith("Value") and "Row" not in name}


LONG, HUGE = 30_000_000, 500_000_000
"""Characters. The second is half of what PostgreSQL holds: the driver takes eleven times as much memory, and the double
seven."""


@pytest.mark.timeout(900)
def test_half_a_gigabyte_of_text_arrives_or_is_refused_with_column_and_row(house: House) -> None:
    house.sql("CREATE TABLE ops.Huge (ID int NOT NULL PRIMARY KEY, Doc varchar(max) NULL)")
    house.sql("INSERT INTO ops.Huge VALUES (1, 'before'), (3, 'after')")
    house.sql(f"INSERT INTO ops.Huge SELECT 2, REPLICATE(CAST('x' AS varchar(max)), {LONG})")
    house.datasets({"huge": {"table": "ops.Huge", "key": ["ID"]}})
    for warehouse in (FINANCE, MARKETING):
        house.takes(warehouse, "huge", mode="replace")
    refused = house.load(MARKETING, dataset="huge")
    refused.is_refused("ValueRefused", 78, "'doc'", "id = 2", f"{LONG:,} bytes", "memory_limit")
    assert set() == house.tables(MARKETING)

    house.sql(
        f"UPDATE ops.Huge SET Doc = CONCAT('<', REPLICATE(CAST('x' AS varchar(max)), {HUGE - 2}), '>') WHERE ID = 2"
    )
    house.located(marketing={"memory_limit": "1500MB"})
    for warehouse in (MARKETING, FINANCE):
        run = house.begin(warehouse, dataset="huge")
        assert watched(run) < 16 * HUGE, "docs/types.md says how much memory a long value takes"
        ended = run.end()
        assert 0 == ended.code, ended.err
        sql = "SELECT id, length(doc), left(doc, 2), right(doc, 2) FROM bronze.huge ORDER BY id"
        expected = [(1, 6, "be", "re"), (2, HUGE, "<x", "x>"), (3, 5, "af", "er")]
        assert expected == house.query(warehouse, sql)


def watched(run: Command) -> int:
    """Return the most memory that the command holds until it ends, in bytes."""
    process, peak = psutil.Process(run.process.pid), 0
    while run.is_running():
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.05)
    return peak

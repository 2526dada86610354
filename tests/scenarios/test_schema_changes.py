"""The source changes its columns, through every policy of ``warehouse.yaml``."""

from __future__ import annotations

import pytest

from .house import DATASETS, FINANCE, MARKETING, House

pytestmark = pytest.mark.slow

CONTRACT_ERROR = 78
POLICIES = ("evolve", "freeze", "fail")


@pytest.fixture
def agreed(house: House) -> House:
    """Loaded once into both, with a contract that was pulled from the source."""
    pulled = house.datakit("contract", "pull", "shop.orders")
    assert 0 == pulled.code, pulled.err
    for warehouse in (FINANCE, MARKETING):
        house.loaded(warehouse, run_id="first")
    return house


def changed(house: House, *batches: str) -> None:
    """Change the table, then every row, so that an incremental load sees them."""
    for batch in batches:
        house.sql(batch)
    house.sql("UPDATE ops.Orders SET ModifiedAt = '2024-05-01'")


@pytest.mark.parametrize("policy", POLICIES)
def test_an_added_column(agreed: House, warehouse: str, policy: str) -> None:
    agreed.takes(warehouse, "orders", schema_changes=policy)
    before = agreed.landed(warehouse)
    changed(agreed, "ALTER TABLE ops.Orders ADD Note nvarchar(20) NULL", "UPDATE ops.Orders SET Note = N'größer'")
    ended = agreed.load(warehouse, run_id="second")
    match policy:
        case "evolve":
            assert 0 == ended.code, ended.err
            assert any("Note" in change for change in ended.report["schema_changes"])
            agreed.is_equal(warehouse)
        case "freeze":
            assert 0 == ended.code, ended.err
            landed = agreed.landed(warehouse)
            assert (before.columns, 100) == (landed.columns, landed.rows)
            assert [("2024-05-01",)] == agreed.query(
                warehouse, "SELECT DISTINCT CAST(CAST(modified_at AS date) AS varchar(10)) FROM bronze.orders"
            )
        case _:
            ended.is_refused("ContractMismatch", CONTRACT_ERROR, "shop.orders", "Note", "fail")
            assert (before, ["first"]) == (agreed.landed(warehouse), agreed.loads(warehouse))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_widened_column(agreed: House, warehouse: str, policy: str) -> None:
    agreed.takes(warehouse, "orders", schema_changes=policy)
    before = agreed.landed(warehouse)
    changed(agreed, "ALTER TABLE ops.Orders ALTER COLUMN Quantity bigint NULL")
    agreed.sql("UPDATE ops.Orders SET Quantity = 9000000000 WHERE OrderID = 7")
    ended = agreed.load(warehouse, run_id="second")
    if policy == "evolve":
        assert 0 == ended.code, ended.err
        assert any("Quantity" in change or "quantity" in change for change in ended.report["schema_changes"])
        assert [(9_000_000_000,)] == agreed.query(warehouse, "SELECT quantity FROM bronze.orders WHERE order_id = 7")
        agreed.is_equal(warehouse)
    else:
        ended.is_refused("ContractMismatch", CONTRACT_ERROR, "shop.orders", "Quantity", "int32", "int64", policy)
        assert (before, ["first"]) == (agreed.landed(warehouse), agreed.loads(warehouse))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ("ALTER TABLE ops.Orders DROP COLUMN Customer", ("Customer",)),
        ("ALTER TABLE ops.Orders ALTER COLUMN Quantity smallint NULL", ("Quantity", "int32", "int16")),
        ("EXEC sp_rename 'ops.Orders.Customer', 'Client', 'COLUMN'", ("Customer", "Client")),
    ],
    ids=["dropped", "narrowed", "renamed"],
)
def test_a_column_that_is_dropped_narrowed_or_renamed_is_refused_with_the_difference(
    agreed: House, policy: str, batch: str, says: tuple[str, ...]
) -> None:
    before = agreed.landed(MARKETING)
    agreed.takes(MARKETING, "orders", schema_changes=policy)
    changed(agreed, batch)
    refused = agreed.load(MARKETING, run_id="second")
    # freeze and evolve let the new half of a renaming pass, so they name only the column that is gone
    expected = says if policy == "fail" else says[:1] if "rename" in batch else says
    refused.is_refused("ContractMismatch", CONTRACT_ERROR, "shop.orders", *expected, "datakit contract")
    assert (before, ["first"]) == (agreed.landed(MARKETING), agreed.loads(MARKETING))


def test_a_change_that_is_accepted_by_pulling_the_contract_needs_a_full_run_and_then_is_exact(
    agreed: House, warehouse: str
) -> None:
    changed(agreed, "EXEC sp_rename 'ops.Orders.Customer', 'Client', 'COLUMN'")
    assert 0 == agreed.datakit("contract", "pull", "shop.orders").code
    agreed.load(warehouse).is_refused("SchemaChangeRefused", CONTRACT_ERROR, "customer", "--full")
    agreed.loaded(warehouse, "--full")
    agreed.is_equal(warehouse)
    agreed.sql("UPDATE ops.Orders SET Quantity = Quantity + 1, ModifiedAt = '2024-06-01' WHERE OrderID <= 10")
    assert "merge" == agreed.loaded(warehouse)["mode"]
    agreed.is_equal(warehouse)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_changed_key_is_refused_until_a_full_run(house: House, policy: str) -> None:
    house.sql("CREATE TABLE ops.Lines (OrderID int NOT NULL, Line int NOT NULL, At datetime2(3) NOT NULL)")
    house.sql("INSERT INTO ops.Lines VALUES (1, 1, '2024-01-01'), (2, 1, '2024-01-02')")
    lines = {"table": "ops.Lines", "key": ["OrderID"], "cursor": {"column": "At"}}
    house.datasets(DATASETS | {"lines": lines})
    house.takes(FINANCE, "lines", schema_changes=policy)
    house.loaded(FINANCE, dataset="lines")
    before = house.landed(FINANCE, "bronze.lines")
    house.sql("INSERT INTO ops.Lines VALUES (1, 2, '2024-02-01')")
    house.datasets(DATASETS | {"lines": lines | {"key": ["OrderID", "Line"]}})
    house.load(FINANCE, dataset="lines").is_refused(
        "SchemaChangeRefused", CONTRACT_ERROR, "bronze.lines", "order_id, line", "--full"
    )
    assert before == house.landed(FINANCE, "bronze.lines")
    house.loaded(FINANCE, "--full", dataset="lines")
    house.is_equal(FINANCE, "ops.Lines", "bronze.lines")

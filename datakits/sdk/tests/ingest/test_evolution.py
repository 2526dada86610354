"""Schema changes at the source, one policy each; the message holds the difference."""

from __future__ import annotations

import pyarrow as pa
import pytest
from datakit.errors import ContractMismatch, NameCollision, SchemaChangeRefused
from datakit.model.manifest import Naming, SchemaPolicy

from .conftest import Bench, flights


def with_column(table: pa.Table, name: str, type_: pa.DataType) -> pa.Table:
    return table.append_column(name, pa.nulls(table.num_rows, type_))


def with_delay(table: pa.Table, type_: pa.DataType) -> pa.Table:
    return table.set_column(2, "ArrDelay", table["ArrDelay"].cast(type_))


def columns(bench: Bench) -> dict[str, str]:
    rows = bench.query("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'flights'")
    return {name: type_ for name, type_ in rows if not name.startswith("_dk_")}


def test_evolve_adds_a_column_and_says_so(bench: Bench) -> None:
    bench.run("run-1", contract=bench.contract())
    contract = bench.contract()
    bench.source.tables["ops.Flights"] = with_column(flights(101), "Reason", pa.string())

    report = bench.run("run-2", contract=contract)

    assert columns(bench)["reason"] == "VARCHAR"
    assert report.schema_changes == ("+ Reason: string", "+ reason: string")
    assert len(bench.ids()) == 101


def test_evolve_widens_a_column(bench: Bench) -> None:
    bench.run("run-1")
    bench.source.tables["ops.Flights"] = with_delay(flights(101), pa.int64())

    bench.run("run-2")

    assert columns(bench)["arr_delay"] == "BIGINT"
    assert len(bench.ids()) == 101


def test_a_narrower_source_keeps_the_wider_column(bench: Bench) -> None:
    bench.source.tables["ops.Flights"] = with_delay(flights(100), pa.int64())
    bench.run("run-1")
    bench.source.tables["ops.Flights"] = flights(101)

    bench.run("run-2")

    assert columns(bench)["arr_delay"] == "BIGINT"
    assert len(bench.ids()) == 101


def test_freeze_leaves_an_added_column_out(bench: Bench) -> None:
    contract = bench.contract()
    bench.run("run-1", contract=contract)
    bench.source.tables["ops.Flights"] = with_column(flights(101), "Reason", pa.string())

    bench.run("run-2", contract=contract, schema_changes=SchemaPolicy.FREEZE)

    assert "reason" not in columns(bench)
    assert len(bench.ids()) == 101


def test_freeze_leaves_a_column_out_that_the_contract_has_but_the_table_has_not(bench: Bench) -> None:
    bench.run("run-1")
    bench.source.tables["ops.Flights"] = with_column(flights(101), "Reason", pa.string())

    bench.run("run-2", contract=bench.contract(), schema_changes=SchemaPolicy.FREEZE)

    assert "reason" not in columns(bench)
    assert len(bench.ids()) == 101


@pytest.mark.parametrize("policy", [SchemaPolicy.FREEZE, SchemaPolicy.FAIL])
def test_other_policies_refuse_a_widened_column(bench: Bench, policy: SchemaPolicy) -> None:
    contract = bench.contract()
    bench.run("run-1", contract=contract)
    bench.source.tables["ops.Flights"] = with_delay(flights(101), pa.int64())

    with pytest.raises(ContractMismatch, match=r"~ ArrDelay: int32 → int64"):
        bench.run("run-2", contract=contract, schema_changes=policy)
    assert len(bench.ids()) == 100


def test_fail_refuses_an_added_column(bench: Bench) -> None:
    contract = bench.contract()
    bench.run("run-1", contract=contract)
    bench.source.tables["ops.Flights"] = with_column(flights(101), "Reason", pa.string())

    with pytest.raises(ContractMismatch, match=r"\+ Reason: string"):
        bench.run("run-2", contract=contract, schema_changes=SchemaPolicy.FAIL)


@pytest.mark.parametrize("policy", list(SchemaPolicy))
def test_every_policy_refuses_a_dropped_column_with_the_difference(bench: Bench, policy: SchemaPolicy) -> None:
    contract = bench.contract()
    bench.run("run-1", contract=contract)
    bench.source.tables["ops.Flights"] = flights(101).drop_columns(["ArrDelay"])

    with pytest.raises(ContractMismatch, match="- ArrDelay: int32") as caught:
        bench.run("run-2", contract=contract, schema_changes=policy)
    assert caught.value.exit_code == 78
    assert "contract pull" in (caught.value.fix or "")
    assert len(bench.ids()) == 100


def test_a_renamed_column_is_a_dropped_and_an_added_one(bench: Bench) -> None:
    contract = bench.contract()
    bench.run("run-1", contract=contract)
    bench.source.tables["ops.Flights"] = flights(100).rename_columns(["FlightID", "ModifiedAt", "Delay"])

    with pytest.raises(ContractMismatch, match="- ArrDelay: int32"):
        bench.run("run-2", contract=contract)


def test_a_narrowed_type_is_refused(bench: Bench) -> None:
    contract = bench.contract()
    bench.run("run-1", contract=contract)
    bench.source.tables["ops.Flights"] = with_delay(flights(100), pa.int16())

    with pytest.raises(ContractMismatch, match=r"int32 → int16 \(changed\)"):
        bench.run("run-2", contract=contract)


def test_a_pulled_contract_still_needs_a_full_run_to_drop_a_column_from_the_table(bench: Bench) -> None:
    bench.run("run-1")
    bench.source.tables["ops.Flights"] = flights(101).drop_columns(["ArrDelay"])

    with pytest.raises(SchemaChangeRefused, match="- arr_delay: int32") as caught:
        bench.run("run-2")
    assert "no policy for schema changes takes a removed column" in (caught.value.cause or "")
    assert (
        caught.value.fix == "rebuild the table with `datakit run --full --dataset airline.flights --warehouse finance`"
    )
    bench.run("run-3", full=True)

    assert {"flight_id", "modified_at"} == set(columns(bench))


def test_a_changed_key_is_refused(bench: Bench) -> None:
    bench.run("run-1")
    bench.settings.dataset.__dict__["key"] = ("ModifiedAt",)

    with pytest.raises(SchemaChangeRefused, match="flight_id → modified_at") as caught:
        bench.run("run-2")
    assert "another key" in (caught.value.cause or "")


def test_two_columns_of_one_name_are_refused_before_anything_is_touched(bench: Bench) -> None:
    bench.source.tables["ops.Flights"] = with_column(flights(5), "arr_delay", pa.int32())

    with pytest.raises(NameCollision, match="'ArrDelay' and 'arr_delay' would both be named 'arr_delay'"):
        bench.run("run-1")
    assert not bench.source.reads


def test_preserve_keeps_names_as_they_are(bench: Bench) -> None:
    bench.run("run-1", naming=Naming.PRESERVE)
    assert {"FlightID", "ModifiedAt", "ArrDelay"} == set(columns(bench))


def test_a_policy_that_refuses_a_new_column_says_which_one_would_take_it(bench: Bench) -> None:
    bench.run("run-1")
    bench.source.tables["ops.Flights"] = with_column(flights(101), "Reason", pa.string())

    with pytest.raises(SchemaChangeRefused, match=r"\+ reason: string") as caught:
        bench.run("run-2", contract=bench.contract(), schema_changes=SchemaPolicy.FAIL)
    assert "the policy for schema changes is fail" == caught.value.cause
    assert "schema_changes: evolve" in (caught.value.fix or "")

"""Commands that read a source system."""

import json
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from datakit.model.contract import Contract
from datakit.model.yaml import load

from .conftest import Tree, flights

CONTRACT = "datakits/airline-source/contracts/flights.yaml"


def test_preview_shows_live_rows_as_a_table(tree: Tree, datakit: Any) -> None:
    result = datakit("preview", "airline.flights", "--rows", "3", "-e", "local")
    assert (0, "") == (result.code, result.err)
    assert "airline.flights, 3 rows" in result.out
    assert "int64" in result.out
    assert "NULL" in result.out
    assert "2026-01-01 00:03:00" in result.out


def test_preview_as_json_keeps_types_and_values(tree: Tree, datakit: Any) -> None:
    table = pa.table({"TailNumber": ["N1"], "Price": [Decimal("1.50")], "Photo": [b"\x00\xff"]})
    schema = pa.schema([pa.field("TailNumber", pa.string(), nullable=False), *list(table.schema)[1:]])
    tree.put("planes", table.cast(schema.set(1, pa.field("Price", pa.decimal128(19, 4)))))
    report = json.loads(datakit("preview", "airline.planes", "-e", "local", "--json").out)
    assert ("Price", "decimal(19,4)", True) == tuple(report["columns"][1][key] for key in ("name", "type", "nullable"))
    assert [{"TailNumber": "N1", "Price": "1.5000", "Photo": "00ff"}] == report["rows"]


def test_preview_never_sends_control_characters_to_the_terminal(tree: Tree, datakit: Any) -> None:
    schema = pa.schema([pa.field("TailNumber", pa.string(), nullable=False)])
    tree.put("planes", pa.table([pa.array(["\x1b[31mred\x07"])], schema=schema))
    result = datakit("preview", "airline.planes", "-e", "local")
    assert "·[31mred·" in result.out
    assert "\x1b" not in result.out


def test_preview_in_a_narrow_terminal_prints_records(tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", datakit("preview", "airline.flights", "-n", "2", "-e", "local").out)
    assert "airline.flights, row 2 of 2" in plain
    assert re.search(r"ArrDelay +int32 +NULL", plain)


def test_preview_into_a_pipe_cuts_nothing_off(tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    schema = pa.schema([pa.field("TailNumber", pa.string(), nullable=False)])
    tree.put("planes", pa.table([pa.array(["long " * 50 + "end"])], schema=schema))
    assert "long " * 50 + "end" in datakit("preview", "airline.planes", "-e", "local").out


def test_an_unknown_dataset_suggests_the_nearest(tree: Tree, datakit: Any) -> None:
    result = datakit("preview", "airline.flight", "-e", "local")
    assert (78, True) == (result.code, "did you mean 'airline.flights'?" in result.err)


def test_without_an_environment_nothing_is_guessed(tree: Tree, datakit: Any) -> None:
    result = datakit("preview", "airline.flights")
    assert (78, True) == (result.code, "no environment is chosen" in result.err)


def test_a_source_that_is_down_is_temporary(tree: Tree, datakit: Any) -> None:
    tree.data.rename(tree.data.with_name("gone"))
    result = datakit("preview", "airline.flights", "-e", "local", "--json")
    assert (75, "") == (result.code, result.out)
    error = json.loads(result.err)["error"]
    assert ("SourceUnavailable", True) == (error["type"], error["retryable"])


def test_pull_writes_contracts_that_check_accepts(tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_ENVIRONMENT", "local")
    pulled = datakit("contract", "pull")
    assert (0, "") == (pulled.code, pulled.err)
    assert "airline.flights: new, 3 columns" in pulled.out
    contract = load(tree.root / CONTRACT, Contract)
    assert ("airline.flights", ("FlightID",)) == (contract.dataset, contract.key)
    assert 0 == datakit("contract", "check").code
    assert "contract yet" not in datakit("check").out


def test_pull_of_one_dataset_leaves_the_others_alone(tree: Tree, datakit: Any) -> None:
    datakit("contract", "pull", "airline.planes", "-e", "local")
    assert ["planes.yaml"] == [path.name for path in (tree.root / CONTRACT).parent.iterdir()]


def test_pulling_again_changes_nothing_and_keeps_the_editors_line(tree: Tree, datakit: Any) -> None:
    datakit("contract", "pull", "-e", "local")
    line = "# yaml-language-server: $schema=../schema.json\n"
    path = tree.root / CONTRACT
    path.write_text(line + path.read_text())
    before = path.read_bytes()
    assert "airline.flights: unchanged" in datakit("contract", "pull", "-e", "local").out
    assert before == path.read_bytes()
    tree.put("flights", flights(3).append_column("Note", pa.array(["a", "b", None])))
    assert "airline.flights: changed" in datakit("contract", "pull", "-e", "local").out
    assert path.read_text().startswith(line)


def test_check_says_what_drifted_and_fails(tree: Tree, datakit: Any) -> None:
    datakit("contract", "pull", "-e", "local")
    tree.put("flights", flights(3).drop_columns(["ArrDelay"]).append_column("Gate", pa.array(["a", "b", "c"])))
    result = datakit("contract", "check", "-e", "local")
    assert 78 == result.code
    assert ["airline.flights: changed", "  - ArrDelay: int32", "  + Gate: string", "airline.planes: as agreed"] == (
        result.out.splitlines()
    )
    assert "the source is not what was agreed: 2 changes" in result.err
    report = json.loads(datakit("contract", "check", "-e", "local", "--json").out)
    assert {"kind": "added", "column": "Gate", "before": None, "after": "string"} in report["contracts"][0]["changes"]


def test_check_without_a_contract_fails(tree: Tree, datakit: Any) -> None:
    result = datakit("contract", "check", "airline.planes", "-e", "local")
    assert (78, True) == (result.code, "there is no contract yet" in result.err)


def test_a_dataset_that_cannot_be_described_does_not_stop_the_others(tree: Tree, datakit: Any) -> None:
    (tree.data / "flights.arrow").unlink()
    result = datakit("contract", "pull", "-e", "local")
    assert (77, True) == (result.code, "airline.planes: new" in result.out)
    assert "there is no such table" in result.err


def test_diff_compares_files_datasets_and_the_live_source(tree: Tree, datakit: Any) -> None:
    datakit("contract", "pull", "-e", "local")
    old = tree.write("old.yaml", (tree.root / CONTRACT).read_text().replace("int32", "int16"))
    widened = datakit("contract", "diff", str(old), "airline.flights")
    assert (78, "  ~ ArrDelay: int16 → int32 (widened)\n") == (widened.code, widened.out)
    assert (0, "no difference\n") == (lambda same: (same.code, same.out))(
        datakit("contract", "diff", CONTRACT, "airline.flights")
    )
    assert 0 == datakit("contract", "diff", "airline.flights", "-e", "local").code
    tree.put("flights", flights(3).drop_columns(["ArrDelay"]))
    live = datakit("contract", "diff", "airline.flights", "-e", "local", "--json")
    assert 78 == live.code
    assert ["ArrDelay"] == [change["column"] for change in json.loads(live.out)["changes"]]
    assert 78 == datakit("contract", "diff", str(old), "live:airline.flights", "-e", "local").code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing.yaml", "airline.flights"), "no such file"),
        (("airline.flights", "airline.planes"), "has no contract yet"),
        (("warehouses/finance/warehouse.yaml",), "compared with another one"),
    ],
)
def test_a_diff_that_cannot_be_made_says_why(tree: Tree, datakit: Any, arguments: tuple[str, ...], says: str) -> None:
    result = datakit("contract", "diff", *arguments)
    assert (78, True) == (result.code, says in result.err)

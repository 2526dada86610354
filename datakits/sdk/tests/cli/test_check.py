import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import ENVIRONMENT

CONTRACT = """\
dataset: airline.flights
key: [FlightID]
columns:
  - {name: FlightID, type: int64, nullable: false}
  - {name: ModifiedAt, type: timestamp, nullable: false}
  - {name: ArrDelay, type: int32}
  - {name: Note, type: string, nullable: false}
"""
SOURCE = "datakits/airline-source/datakit.yaml"
BRONZE = "datakits/memory-bronze/datakit.yaml"
WAREHOUSE = "warehouses/finance/warehouse.yaml"
LOCAL = "warehouses/environments/local.yaml"


@pytest.fixture
def found(tree: Any, datakit: Any) -> Any:
    """Check the tree and return (subject relative to the tree, what) of each problem."""
    tree.write("datakits/airline-source/contracts/flights.yaml", CONTRACT)

    def check() -> list[tuple[str, str]]:
        result = datakit("check", "--json")
        report = json.loads(result.out)
        assert (78 if report["problems"] else 0) == result.code
        assert report["ok"] == (not report["problems"])
        return [(each["subject"].removeprefix(f"{tree.root}/"), each["what"]) for each in report["problems"]]

    return check


def test_a_tree_without_a_problem_passes_and_says_what_was_not_checked(tree: Any, datakit: Any) -> None:
    result = datakit("check")
    assert (0, "") == (result.code, result.err)
    assert "airline.planes has no contract yet" in result.out
    assert "no problem in 1 source datakit, 1 bronze datakit, 1 warehouse, 1 environment" in result.out


@pytest.mark.parametrize(
    ("file", "old", "new", "place", "says"),
    [
        (SOURCE, "key: [FlightID]", "key: [FlightId]", ":9:5", "called 'FlightId'"),
        (SOURCE, "key: [FlightID]", "key: [ArrDelay]", ":9:5", "may be NULL"),
        (SOURCE, "key: [FlightID]", "key: [Note]", ":9:5", "FlightID in the contract"),
        (SOURCE, "column: ModifiedAt", "column: Modified", ":10:14", "called 'Modified'"),
        (SOURCE, "column: ModifiedAt", "column: ArrDelay", ":10:14", "may be NULL"),
        (SOURCE, "column: ModifiedAt", "column: Note", ":10:14", "later does not mean greater"),
        (SOURCE, "column: ModifiedAt", "column: FlightID", ":10:32", "lag is for times"),
        (SOURCE, "slices: {column: FlightID", "slices: {column: Nothing", ":11:14", "called 'Nothing'"),
        (SOURCE, "slices: {column: FlightID", "slices: {column: Note", ":11:14", "cannot be cut"),
        (SOURCE, "slices: {column: FlightID", "slices: {column: ArrDelay", ":11:14", "may be NULL"),
        (SOURCE, "system: memory", "system: memry", ":4:1", "no source system type 'memry'"),
        (SOURCE, "version: 1.0.0", "version: v1", ":3:10", "SemVer"),
        (SOURCE, "table: planes", "sql: sql/none.sql", ":13:5", "no SQL file 'sql/none.sql'"),
        (SOURCE, "table: planes", "sql: ../../secret.sql", ":13:5", "outside the datakit"),
        (SOURCE, "table: planes", "table: planes\n    sql: a.sql", ":13:5", "either table or sql"),
        (BRONZE, "system: memory", "system: sqlserver", ":6:5", "reads memory"),
        (BRONZE, "airline-source", "airlin-source", ":6:5", "no source datakit 'airlin-source'"),
        (BRONZE, "airline-source", "airline-source\n    version: 3.0.0", ":7:5", "version 3.0.0"),
        (BRONZE, "mode: merge", "mode: mrge", ":7:7", "'mrge'"),
        (WAREHOUSE, "type: duckdb", "type: duckdv", ":2:1", "no warehouse type 'duckdv'"),
        (WAREHOUSE, "memory-bronze", "memory-bronce", ":6:5", "no bronze datakit"),
        (WAREHOUSE, "airline.planes", "airline.plains", ":7:33", "no dataset 'airline.plains'"),
        (WAREHOUSE, "airline.planes", "airline.flights", ":7:33", "both land in the table bronze.flights"),
        (WAREHOUSE, '"@hourly"', '"@hurly"', ":8:5", "no such preset"),
        (WAREHOUSE, '"@hourly"', '"5 4 * *"', ":8:5", "4 fields"),
        (WAREHOUSE, "schedule:", "mode: append\n    schedule:", ":7:33", "append without a cursor"),
        (LOCAL, "airline:", "airlin:", ":3:1", "called 'airline'"),
        (LOCAL, "name: local", "name: lab", ":1:1", "named 'lab'"),
        (LOCAL, "user: reader, ", "", ":4:3", "user is missing"),
        (LOCAL, "{path:", "{pfad:", ":6:16", "unknown key 'pfad'"),
        (LOCAL, "{path:", "{threads: none, path:", ":6:25", "threads is 'none', but must be a whole number"),
    ],
)  # fmt: skip
def test_each_mistake_is_found_at_its_place(
    tree: Any, found: Any, file: str, old: str, new: str, place: str, says: str
) -> None:
    tree.replace(file, old, new)
    problems = found()
    assert [subject for subject, what in problems if says in what] == [file + place], problems


SECRETS = {"client_secret": "canary-5f2", "password": "12345"}
POSTGRES = """\
name: local
runtime: process
sources:
  airline: {host: memory.corp.example, database: airline}
warehouses:
  finance-db:
    host: db.corp.example
    database: dwh
    user: loader
    password: PASSWORD
"""


def test_a_source_that_an_environment_lacks_is_to_be_added_to_its_file(tree: Any, datakit: Any) -> None:
    tree.replace(LOCAL, "airline:", "orders:")
    (problem,) = json.loads(datakit("check", "--json").out)["problems"]
    assert "warehouse 'finance' takes its datasets" == problem["cause"]
    assert f"add airline under sources: in {tree.root}/{LOCAL}" == problem["fix"]


def test_a_connection_is_not_said_to_be_unused_while_a_file_that_may_use_it_is_broken(tree: Any, datakit: Any) -> None:
    tree.replace(LOCAL, "finance-db:", "lake-db: {path: lake.duckdb}\n  finance-db:")
    assert "nothing in this tree uses lake-db" in datakit("check").out
    tree.replace(WAREHOUSE, "type:", "typ:")
    assert "nothing in this tree uses" not in datakit("check").out


def test_a_password_in_clear_text_is_refused_where_it_stands_and_never_shown(tree: Any, datakit: Any) -> None:
    tree.replace(WAREHOUSE, "type: duckdb", "type: postgres")
    tree.write(LOCAL, POSTGRES.replace("PASSWORD", "finance-db/password"))
    assert 0 == datakit("check").code
    tree.write(LOCAL, POSTGRES.replace("PASSWORD", "canary-5f2"))
    result = datakit("check")
    assert 78 == result.code
    assert f"{LOCAL}:10:15: password is not shown, but must be REFERENCE/FIELD" in result.out
    assert "1 problem in" in result.out
    assert "canary" not in result.out + result.err


def test_a_secret_is_found_also_in_a_section_that_no_adapter_of_ours_reads(tree: Any, found: Any, datakit: Any) -> None:
    line = "  lake: {account: corp, oauth: {client_secret: canary-5f2, token: lake/token, password: 12345}}\n"
    tree.write(LOCAL, ENVIRONMENT.format(data=tree.data, database=tree.database) + line)
    expected = [(f"{LOCAL}:7:{line.index(value) + 1}", key) for key, value in SECRETS.items()]
    assert expected == [(subject, what.split()[0]) for subject, what in found()]
    assert "canary" not in datakit("check").out


def test_a_section_is_judged_once_for_each_type_that_uses_it(tree: Any, found: Any) -> None:
    text = (tree.root / WAREHOUSE).read_text().replace("name: finance", "name: sales")
    tree.write("warehouses/sales/warehouse.yaml", text)
    tree.replace(LOCAL, "{path:", "{pfad: x, path:")
    assert [f"{LOCAL}:6:16"] == [subject for subject, _ in found()]


def test_checking_imports_no_driver(tree: Any, adapter: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from datakit.cli._rules import check_tree\n"
        "from datakit.model.project import Project\n"
        "print(check_tree(Project.find(Path(sys.argv[1]))).problems)\n"
        "print(sorted({'duckdb', 'psycopg', 'pgpq', 'mssql_python', 'pyarrow'} & set(sys.modules)))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tree.root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(adapter)},
    )
    assert ["()", "[]"] == child.stdout.splitlines(), child.stderr


def test_an_adapter_without_a_model_is_said_to_be_unchecked(tree: Any, adapter: Path, datakit: Any) -> None:
    (adapter / "memory_source-1.0.dist-info" / "entry_points.txt").write_text(
        "[datakit.sources]\nmemory = memory_source:open_source\n"
        "[datakit.warehouses]\nlake = memory_source:open_source\nsea = no_such_module:open_sea\n"
    )
    for type_, says in (("lake", "has no model of its section"), ("sea", "cannot be imported here")):
        tree.write(WAREHOUSE, (tree.root / WAREHOUSE).read_text().replace("type: duckdb", f"type: {type_}"))
        result = datakit("check")
        assert (0, True) == (result.code, f"the adapter {type_!r} {says}" in result.out), result.out
        tree.replace(WAREHOUSE, f"type: {type_}", "type: duckdb")


def test_merge_without_a_key_is_found(tree: Any, found: Any) -> None:
    tree.replace(SOURCE, "    key: [TailNumber]\n", "")
    assert [(f"{WAREHOUSE}:7:33", "merge needs a key, and the dataset has none")] == found()


def test_names_that_collide_after_the_naming_policy_are_found(tree: Any, found: Any) -> None:
    tree.replace("datakits/airline-source/contracts/flights.yaml", "name: Note", "name: arr_delay")
    ((subject, what),) = found()
    assert f"{WAREHOUSE}:7:16" == subject
    assert "would both be named 'arr_delay'" in what


def test_a_contract_of_no_dataset_is_found(tree: Any, found: Any) -> None:
    tree.write("datakits/airline-source/contracts/flihgts.yaml", CONTRACT)
    ((subject, what),) = found()
    assert ("datakits/airline-source/contracts/flihgts.yaml:1:1", "there is no dataset 'flihgts'") == (subject, what)


def test_a_contract_for_another_dataset_is_found(tree: Any, found: Any) -> None:
    tree.replace("datakits/airline-source/contracts/flights.yaml", "airline.flights", "airline.planes")
    assert ["the contract is for 'airline.planes', but its file belongs to 'airline.flights'"] == [
        what for _, what in found()
    ]


def test_a_file_whose_name_keeps_it_from_being_read_is_found(tree: Any, found: Any) -> None:
    tree.write("warehouses/environments/prod.yml", "name: prod\n")
    assert [("warehouses/environments/prod.yml", "the file is never read, because its name ends in .yml")] == found()


def test_two_datakits_that_define_one_dataset_are_found(tree: Any, found: Any) -> None:
    text = (tree.root / SOURCE).read_text().replace("airline-source", "second-source")
    tree.write("datakits/second-source/datakit.yaml", text)
    assert ["the dataset 'airline.flights' is defined twice", "the dataset 'airline.planes' is defined twice"] == [
        what for _, what in found()
    ]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT 1 AS a", None),
        ("-- a comment; with a semicolon\nWITH x AS (SELECT 1 AS a)\nSELECT * FROM x;\n", None),
        ("SELECT 'INSERT; it''s' AS [DROP], \"UPDATE\" FROM /* ; EXEC */ t", None),
        ("SELECT 1; SELECT 2", "more than one statement"),
        ("DELETE FROM t", "begins with DELETE"),
        ("SELECT * INTO copy FROM t", "holds INTO"),
        ("WITH x AS (SELECT 1 AS a) UPDATE x SET a = 2", "holds UPDATE"),
        ("SELECT 1\nGO", "holds GO"),
        ("-- nothing\n", "no statement"),
    ],
)
def test_a_sql_file_holds_one_select(tree: Any, found: Any, sql: str, says: str | None) -> None:
    tree.write("datakits/airline-source/sql/planes.sql", sql)
    tree.replace(SOURCE, "table: planes", "sql: sql/planes.sql")
    problems = found()
    if says is None:
        assert [] == problems
    else:
        ((subject, what),) = problems
        assert "datakits/airline-source/sql/planes.sql:1:1" == subject
        assert says in what


def test_all_problems_of_all_files_are_listed_at_once(tree: Any, found: Any) -> None:
    tree.replace(SOURCE, "key: [FlightID]", "key: [FlightId]")
    tree.replace(WAREHOUSE, "type: duckdb", "typ: duckdv\nschemaa: x")
    tree.write("warehouses/environments/prod.yaml", "name: prod\nruntime: dokcer\n")
    places = {subject for subject, _ in found()}
    assert {f"{WAREHOUSE}:2:1", f"{WAREHOUSE}:3:1", "warehouses/environments/prod.yaml:2:10", f"{SOURCE}:9:5"} == places


def test_a_problem_is_printed_with_cause_and_next_step(tree: Any, datakit: Any) -> None:
    tree.replace(WAREHOUSE, "type:", "typ:")
    result = datakit("check")
    assert 78 == result.code
    assert f"error {tree.root}/{WAREHOUSE}:2:1: unknown key 'typ'" in result.out
    assert "cause: did you mean 'type'?" in result.out
    assert "1 problem in" in result.out


def test_checking_one_folder_leaves_out_the_problems_of_others(tree: Any, datakit: Any) -> None:
    tree.replace(WAREHOUSE, "type: duckdb", "type: duckdv")
    assert 0 == datakit("check", "datakits/airline-source").code
    assert 78 == datakit("check", "warehouses/finance").code


def test_a_folder_that_is_not_there_is_refused(tree: Any, datakit: Any) -> None:
    result = datakit("check", "nothing")
    assert (78, True) == (result.code, "there is no such folder" in result.err)


def test_a_lone_bronze_datakit_says_what_it_could_not_check(tmp_path: Path, datakit: Any, adapter: Path) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    text = "kind: bronze\nname: b\nversion: 1.0.0\nsystem: memory\nsources: [{datakit: elsewhere}]\n"
    (folder / "datakit.yaml").write_text(text)
    result = datakit("check", str(folder))
    assert (0, True) == (result.code, "elsewhere is not in this folder" in result.out)

"""The run protocol from the outside: options, DATAKIT_RUN, report, exit codes."""

import json
import signal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from datakit.errors import Interrupted, InvalidFile, SecretUnavailable

from .conftest import ENVIRONMENT, Tree, flights

FLIGHTS = ("--dataset", "airline.flights", "--warehouse", "finance", "--environment", "local")
LOCAL = "warehouses/environments/local.yaml"
WAREHOUSE = "warehouses/finance/warehouse.yaml"
APPENDING = """\
name: finance
type: duckdb
connection: finance-db
schema: bronze
ingest:
  - {datakit: memory-bronze, mode: append, datasets: [airline.flights]}
  - {datakit: memory-bronze, datasets: [airline.planes]}
"""
SECOND = """\
kind: source
name: second-source
version: 1.0.0
system: memory
connection: second
datasets:
  notes: {table: notes, key: [NoteID]}
"""


def count(tree: Tree) -> int:
    with duckdb.connect(str(tree.database), read_only=True) as connection:
        ((rows,),) = connection.execute("SELECT count(*) FROM bronze.flights").fetchall()
    return int(rows)


def test_a_run_loads_a_dataset_and_leaves_a_report(tree: Tree, datakit: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = datakit("run", *FLIGHTS, "--run-id", "r1", "--report", str(report))
    assert 0 == result.code, result.err
    assert "airline.flights → finance (bronze.flights): 100 rows" in result.out
    assert 100 == count(tree)
    left = json.loads(report.read_text())
    assert ("loaded", "r1", 100, "memory-bronze@2.0.0") == (
        left["status"],
        left["run_id"],
        left["rows_written"],
        left["datakit"],
    )


def test_json_prints_the_report(tree: Tree, datakit: Any) -> None:
    report = json.loads(datakit("run", *FLIGHTS, "--json").out)
    assert ("loaded", 100, 0) == (report["status"], report["rows_written"], report["exit_code"])


def test_the_document_of_the_protocol_is_enough(tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "protocol": "1.9",
        "run_id": "r1",
        "dataset": "airline.flights",
        "warehouse": "finance",
        "environment": "local",
        "a_field_of_a_later_version": {"x": 1},
    }
    monkeypatch.setenv("DATAKIT_RUN", json.dumps(document))
    monkeypatch.setenv("DATAKIT_ENVIRONMENT", "another")
    result = datakit("run", "--json")
    assert 0 == result.code, result.err
    assert ("r1", "local") == (json.loads(result.out)["run_id"], json.loads(result.out)["environment"])
    assert "airline.planes" == json.loads(datakit("run", "--json", "--dataset", "airline.planes").out)["dataset"]


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        ('{"protocol": "2.0"}', "UnsupportedProtocol", "version 2.0"),
        ('{"protocol": 1}', "InvalidFile", "protocol version"),
        ("{}", "InvalidFile", "protocol version"),
        ("[]", "InvalidFile", "no JSON object"),
        ('{"protocol": ', "InvalidFile", "not JSON"),
        (
            '{"protocol": "1.0", "dataset": "a.b", "warehouse": "w", "run_id": "r", "slice": "3/2"}',
            "InvalidFile",
            "3/2",
        ),
        ('{"protocol": "1.0", "dataset": "ab", "warehouse": "w", "run_id": "r"}', "InvalidFile", "CONNECTION.DATASET"),
        ('{"protocol": "1.0", "dataset": "a.b"}', "ConfigurationError", "no warehouse"),
    ],
)
def test_a_document_that_we_do_not_understand_is_refused_with_a_report(
    tree: Tree, datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str, error: str, says: str
) -> None:
    path = tmp_path / "return.json"
    monkeypatch.setenv("DATAKIT_RUN", document)
    monkeypatch.setenv("DATAKIT_REPORT", str(path))
    result = datakit("run", "--json")
    assert (78, error) == (result.code, json.loads(result.err)["error"]["type"])
    assert says in result.err
    assert not tree.database.exists()
    report = json.loads(path.read_text())
    assert report == json.loads(result.out)
    assert ("failed", 78, error) == (report["status"], report["exit_code"], report["error"]["type"])
    asked = json.loads(document) if document.endswith("}") else {}
    names = ("run_id", "dataset", "warehouse", "slice")
    assert [asked.get(name) for name in names] == [report[name] for name in names]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("--dataset", "airline.flights", "--run-id", "r1"), "ConfigurationError", "no warehouse is given"),
        ((*FLIGHTS, "--parallel", "many"), "ConfigurationError", "--parallel"),
        ((*FLIGHTS, "--slise", "1/2"), "ConfigurationError", "No such option"),
    ],
)
def test_arguments_that_are_no_good_leave_a_report_too(
    tree: Tree,
    datakit: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    error: str,
    says: str,
) -> None:
    path = tmp_path / "return.json"
    monkeypatch.setenv("DATAKIT_REPORT", str(path))
    assert 78 == datakit("run", *arguments).code
    report = json.loads(path.read_text())
    assert ("failed", error, True) == (report["status"], report["error"]["type"], says in report["error"]["what"])


def test_a_run_without_a_tree_leaves_a_report(datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert 78 == datakit("run", *FLIGHTS, "--run-id", "r1", "--report", "return.json").code
    report = json.loads((tmp_path / "return.json").read_text())
    assert ("failed", "r1", "airline.flights", None) == (
        report["status"],
        report["run_id"],
        report["dataset"],
        report["table"],
    )
    assert "there is no datakit or warehouse here" == report["error"]["what"]


def test_where_no_report_can_be_written_that_is_said_beside_the_mistake(
    tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_REPORT", "/nonexistent/return.json")
    result = datakit("run", *FLIGHTS, "--slise", "1/2")
    assert 78 == result.code
    assert "No such option" in result.err
    assert "report cannot be written" in result.err


def test_nothing_new_is_exit_code_99_and_no_error(tree: Tree, datakit: Any) -> None:
    tree.replace("datakits/airline-source/datakit.yaml", "column: ModifiedAt, lag: 5m", "column: FlightID")
    tree.replace("warehouses/finance/warehouse.yaml", "schedule:", "mode: append\n    schedule:")
    tree.replace("warehouses/finance/warehouse.yaml", ", airline.planes", "")
    assert 0 == datakit("run", *FLIGHTS).code
    again = datakit("run", *FLIGHTS)
    assert (99, True) == (again.code, again.err.splitlines()[-1].startswith("nothing to do: "))
    tree.put("flights", flights(120))
    assert 0 == datakit("run", *FLIGHTS).code
    assert 120 == count(tree)


def test_slices_are_planned_loaded_apart_and_committed_together(tree: Tree, datakit: Any) -> None:
    run = (*FLIGHTS, "--run-id", "shared", "--json")
    plan = json.loads(datakit("run", *run, "--slice", "plan").out)
    assert ("planned", 3) == (plan["status"], plan["slices"])
    for index in (3, 1, 2):
        staged = datakit("run", *run, "--slice", f"{index}/3")
        assert 0 == staged.code, staged.err
    done = json.loads(datakit("run", *run, "--slice", "commit").out)
    assert ("loaded", 100) == (done["status"], done["rows_written"])
    assert 100 == count(tree)


def test_the_same_run_again_loads_nothing(tree: Tree, datakit: Any) -> None:
    assert 0 == datakit("run", *FLIGHTS, "--run-id", "r1").code
    again = datakit("run", *FLIGHTS, "--run-id", "r1")
    assert (0, True) == (again.code, "run r1 is loaded already, 100 rows" in again.out)


def test_without_a_dataset_a_run_loads_every_dataset_of_the_warehouse(tree: Tree, datakit: Any) -> None:
    result = datakit("run", "--warehouse", "finance", "--environment", "local", "--json")
    assert 0 == result.code, result.err
    reports = json.loads(result.out)
    assert ["airline.flights", "airline.planes"] == [report["dataset"] for report in reports]
    assert 1 == len({report["run_id"] for report in reports})


ALL = ("run", "--warehouse", "finance", "--environment", "local")


def test_one_dataset_that_fails_does_not_keep_the_others_from_loading(tree: Tree, datakit: Any) -> None:
    (tree.data / "flights.arrow").unlink()
    result = datakit(*ALL)
    assert 77 == result.code
    assert "error flights" in result.err
    assert "airline.planes → finance" in result.out


def test_json_lists_each_dataset_of_a_warehouse_also_those_that_failed_or_had_nothing_new(
    tree: Tree, datakit: Any
) -> None:
    appending(tree)
    assert 0 == datakit(*ALL).code
    (tree.data / "planes.arrow").unlink()
    result = datakit(*ALL, "--json")
    nothing, failed = json.loads(result.out)
    assert ("airline.flights", "nothing", 99, "NothingToDo") == seen(nothing)
    assert ("airline.planes", "failed", 77, "LoginRefused") == seen(failed)
    assert failed["error"]["what"] in result.err
    assert 77 == result.code, "that there is nothing new is no failure, and does not hide one"


def test_json_prints_the_report_of_a_single_dataset_that_fails_too(tree: Tree, datakit: Any) -> None:
    (tree.data / "flights.arrow").unlink()
    result = datakit("run", *FLIGHTS, "--json")
    assert ("airline.flights", "failed", 77, "LoginRefused") == seen(json.loads(result.out))
    assert "LoginRefused" == json.loads(result.err.splitlines()[-1])["error"]["type"]


def test_a_run_of_a_warehouse_that_is_stopped_lists_what_was_done_and_begins_nothing_more(
    tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datakit import ingest

    begun: list[str] = []
    opened = ingest.open_source

    def stopped(*arguments: Any, **more: Any) -> Any:
        if begun:
            raise Interrupted("SIGTERM arrived; the warehouse is as it was")
        begun.append("flights")
        return opened(*arguments, **more)

    monkeypatch.setattr(ingest, "open_source", stopped)
    tree.replace(WAREHOUSE, "airline.planes]", "airline.planes, airline.cars]")
    result = datakit(*ALL, "--json")
    stopped, not_begun = json.loads(result.out)[1:]
    assert ("airline.planes", "failed", 75, "Interrupted") == seen(stopped)
    assert ("airline.cars", "not begun") == (not_begun["dataset"], not_begun["error"]["what"])
    assert (75, True) == (result.code, "SIGTERM" in result.err)
    begun.clear()
    assert "1 of 3 datasets loaded, 1 not begun" == datakit(*ALL).err.splitlines()[-1]


def test_a_signal_names_the_dataset_that_it_stopped(tree: Tree, spawn: Any) -> None:
    with duckdb.connect(str(tree.database)), spawn(*ALL) as process:
        assert "waiting for process" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert "0 of 2 datasets loaded, 2 not begun" == err.splitlines()[-1]
    with duckdb.connect(str(tree.database)), spawn("run", *FLIGHTS) as process:
        assert "waiting for process" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (75, True) == (process.returncode, "airline.flights: SIGINT arrived; the table is as it was" in err)


POSTGRES = """\
name: local
runtime: process
sources:
  airline: {host: memory.corp.example, database: nowhere}
warehouses:
  finance-db: {host: 127.0.0.1, port: 1, database: dwh, user: loader, password: finance/password}
"""


@pytest.mark.parametrize(
    ("old", "new", "secret", "code", "error"),
    [
        ("name: local", "name: other", "", 78, "there is no environment 'local'"),
        ("finance-db:", "lake-db:", "", 78, "called 'finance-db'"),
        ("database: dwh, ", "", "", 78, "the key 'database' is missing"),
        ("name: local", "name: local", "", 77, "finance/password' is not there"),
        ("name: local", "name: local", "canary-5f2", 75, "PostgreSQL cannot be reached"),
    ],
)
def test_what_no_dataset_can_do_without_is_said_once_and_begins_none(
    tree: Tree,
    datakit: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
    secret: str,
    code: int,
    error: str,
) -> None:
    monkeypatch.setenv("DATAKIT_SECRETS", str(tmp_path / "secrets"))
    if secret:
        (tmp_path / "secrets/finance").mkdir(parents=True)
        (tmp_path / "secrets/finance/password").write_text(secret)
    tree.replace(WAREHOUSE, "type: duckdb", "type: postgres")
    tree.write(LOCAL, POSTGRES.replace(old, new))
    result = datakit(*ALL)
    assert (code, 1, 1) == (result.code, result.err.count(error), result.err.count("error ")), result.err
    assert "0 of 2 datasets loaded, 2 not begun" == result.err.splitlines()[-1]
    reports = json.loads(datakit(*ALL, "--json").out)
    assert [("airline.flights", code), ("airline.planes", code)] == [
        (report["dataset"], report["exit_code"]) for report in reports
    ]
    assert all("not begun" == report["error"]["what"] for report in reports)


def test_a_file_that_another_process_has_open_is_waited_for_once(tree: Tree, datakit: Any, spawn: Any) -> None:
    tree.replace(LOCAL, ".duckdb}", ".duckdb, wait: 300ms}")
    with duckdb.connect(str(tree.database)), spawn(*ALL) as process:
        _, err = process.communicate()
    assert (75, 1, 1) == (process.returncode, err.count("waiting for process"), err.count("error "))


def test_a_warehouse_that_goes_away_ends_the_run_and_is_said_once(
    tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datakit import ingest
    from datakit.sources import Source

    def gone(*_: Any, **__: Any) -> Source:
        tree.database.unlink()
        tree.database.mkdir()
        raise InvalidFile("the warehouse is not what it was")

    monkeypatch.setattr(ingest, "open_source", gone)
    result = datakit(*ALL)
    assert (78, 1) == (result.code, result.err.count("error ")), result.err
    assert "0 of 2 datasets loaded, 1 not begun" == result.err.splitlines()[-1]


@pytest.mark.parametrize("missing", ["connection", "secret"])
def test_what_one_source_lacks_is_said_once_and_keeps_no_other_source_from_loading(
    tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    from datakit import ingest

    tree.write("datakits/second-source/datakit.yaml", SECOND.replace("notes", "planes").replace("NoteID", "TailNumber"))
    tree.replace(
        "datakits/memory-bronze/datakit.yaml", "airline-source\n", "airline-source\n  - datakit: second-source\n"
    )
    second = "  - {datakit: memory-bronze, schema: second, datasets: [second.planes]}\n"
    tree.write(WAREHOUSE, (tree.root / WAREHOUSE).read_text() + second)
    name = "other" if missing == "connection" else "airline"
    tree.write(
        LOCAL,
        ENVIRONMENT.format(data=tree.data, database=tree.database)
        .replace("airline:", f"{name}:")
        .replace("warehouses:", f"  second: {{host: memory.corp.example, database: {tree.data}}}\nwarehouses:"),
    )
    opened = ingest.open_source

    def open_source(system: str, connection: Any, **more: Any) -> Any:
        if connection.user:
            raise SecretUnavailable("the secret is not there")
        return opened(system, connection, **more)

    monkeypatch.setattr(ingest, "open_source", open_source)
    result = datakit(*ALL)
    assert (78 if missing == "connection" else 77, 1) == (result.code, result.err.count("error ")), result.err
    assert "second.planes → finance" in result.out
    assert "1 of 3 datasets loaded, 1 not begun" == result.err.splitlines()[-1]


def test_a_run_report_of_every_dataset_is_refused_because_a_report_is_of_one(tree: Tree, datakit: Any) -> None:
    refused = datakit("run", "--warehouse", "finance", "--report", "report.json")
    assert "cause: a run report is of one dataset, and one is to go to report.json" in refused.err
    assert "it is of one dataset, so --dataset is needed" in " ".join(datakit("run", "--help").out.split())


def test_a_commit_whose_slices_are_missing_names_itself_and_the_slice_to_run(tree: Tree, datakit: Any) -> None:
    run = (*FLIGHTS, "--run-id", "q1", "--slice")
    datakit("run", *run, "plan")
    refused = datakit("run", *run, "commit")
    assert (75, True) == (refused.code, "airline.flights → finance: committing" in refused.err)
    assert "--slice 1/3 --run-id q1" in refused.err


def test_of_several_failures_one_that_a_retry_helps_decides_the_exit_code(tree: Tree, datakit: Any) -> None:
    tree.write("datakits/second-source/datakit.yaml", SECOND)
    tree.replace(
        "datakits/memory-bronze/datakit.yaml", "airline-source\n", "airline-source\n  - datakit: second-source\n"
    )
    tree.replace("warehouses/finance/warehouse.yaml", "airline.planes]", "airline.planes, second.notes]")
    tree.replace(LOCAL, "warehouses:", "  second: {host: memory.corp.example, database: /nonexistent}\nwarehouses:")
    (tree.data / "planes.arrow").unlink()
    result = datakit(*ALL, "--json")
    assert [0, 77, 75] == [report["exit_code"] for report in json.loads(result.out)]
    assert 75 == result.code


def test_a_warehouse_that_has_nothing_new_is_skipped_and_one_that_has_something_is_done(
    tree: Tree, datakit: Any
) -> None:
    appending(tree)
    assert 0 == datakit(*ALL).code
    assert 0 == datakit(*ALL).code, "planes have no cursor, so there is always something to load"
    tree.write(WAREHOUSE, "".join(APPENDING.splitlines(keepends=True)[:-1]))
    assert 99 == datakit(*ALL).code


def seen(report: dict[str, Any]) -> tuple[str, str, int, str]:
    return report["dataset"], report["status"], report["exit_code"], report["error"]["type"]


def appending(tree: Tree) -> None:
    """Let the warehouse append flights, by a cursor without lag, and merge planes."""
    tree.replace("datakits/airline-source/datakit.yaml", "column: ModifiedAt, lag: 5m", "column: FlightID")
    tree.write(WAREHOUSE, APPENDING)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--dataset", "airline.flights"), "no warehouse is given"),
        (("--warehouse", "finance", "--slice", "plan", "--run-id", "r1"), "no dataset is given"),
        (("--warehouse", "finance", "--report", "report.json"), "no dataset is given"),
        ((*FLIGHTS, "--slice", "1/2"), "needs a run id"),
        ((*FLIGHTS[2:], "--dataset", "airline.fligths"), "did you mean 'airline.flights'?"),
        (("--dataset", "airline.flights", "--warehouse", "finanse", "-e", "local"), "did you mean 'finance'?"),
        (("--dataset", "airline.flights", "--warehouse", "finance", "-e", "locall"), "did you mean 'local'?"),
        ((*FLIGHTS, "--parallel", "0"), "--parallel"),
        ((*FLIGHTS, "--slise", "1/2"), "No such option"),
        ((*FLIGHTS, "--report", "/nonexistent/report.json"), "report cannot be written"),
    ],
)
def test_bad_input_is_a_configuration_error_and_nothing_is_written(
    tree: Tree, datakit: Any, arguments: tuple[str, ...], says: str
) -> None:
    result = datakit("run", *arguments)
    assert (78, True) == (result.code, says in result.err), result.err
    assert not tree.database.exists()


def test_a_failure_leaves_a_report_too(
    tree: Tree, datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_REPORT", str(tmp_path / "return.json"))
    (tree.data / "flights.arrow").unlink()
    assert 77 == datakit("run", *FLIGHTS).code
    report = json.loads((tmp_path / "return.json").read_text())
    assert ("failed", 77, "LoginRefused") == (report["status"], report["exit_code"], report["error"]["type"])


def test_log_lines_are_json_where_that_is_asked_for(tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_LOG", "json")
    lines = datakit("run", *FLIGHTS).err.splitlines()
    assert lines
    assert {"time", "level", "logger", "message"} == set(json.loads(lines[0]))


def test_two_datasets_that_would_share_a_table_are_refused(tree: Tree, datakit: Any) -> None:
    other = (tree.root / "datakits/airline-source/datakit.yaml").read_text()
    other = other.replace("name: airline-source", "name: cargo-source").replace(
        "connection: airline", "connection: cargo"
    )
    tree.write("datakits/cargo-source/datakit.yaml", other)
    tree.replace("warehouses/finance/warehouse.yaml", "airline.planes]", "airline.planes, cargo.flights]")
    result = datakit("run", *FLIGHTS)
    assert (78, True) == (result.code, "airline.flights and cargo.flights would land in one table" in result.err)


def test_a_document_without_a_run_id_is_refused_because_a_retry_would_load_again(
    tree: Tree, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"protocol": "1.0", "dataset": "airline.flights", "warehouse": "finance", "environment": "local"}
    monkeypatch.setenv("DATAKIT_RUN", json.dumps(document))
    result = datakit("run")
    assert (78, True) == (result.code, "does not name its run" in result.err)
    assert not tree.database.exists()

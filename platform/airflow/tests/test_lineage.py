"""What OpenLineage hears of a run: on start, on complete, on failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from .house import INGEST, House

BODY = """\
error = {"type": "SourceUnavailable", "what": "gone", "subject": "sql:1433", "cause": "away", "fix": "wait"}
if EXIT:
    report(status="failed", exit_code=EXIT, rows_read=0, rows_written=0, bytes=0, error=error)
    sys.exit(EXIT)
report(rows_read=1458, rows_written=1457, bytes=99, error=None)
"""


def events(house: House, exit_code: int) -> list[dict[str, Any]]:
    """Run the DAG with OpenLineage writing into a file; return the events of its one task."""
    house.fake(BODY.replace("EXIT", str(exit_code)))
    house.dag(INGEST)
    file = house.scratch / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    program = f"from airflow.dag_processing.dagbag import DagBag\nDagBag({str(house.dags)!r}).dags['example'].test()"
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)},
        check=True,
        capture_output=True,
    )
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [event for event in found if event["job"]["name"] == "example.ingest"]


@pytest.mark.usefixtures("airflow_database")
def test_a_run_names_its_source_its_table_and_its_rows(house: House) -> None:
    start, complete = events(house, 0)
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    for event in (start, complete):
        [source], [table] = event["inputs"], event["outputs"]
        assert (source["namespace"], source["name"]) == ("mssql://sql.corp.example:1433", "AirlineOps.ops.Airports")
        assert (table["namespace"], table["name"]) == (
            "postgres://db.corp.example:5432",
            "dwh.bronze_airline.airports",
        )
        fields = {field["name"]: field["type"] for field in source["facets"]["schema"]["fields"]}
        assert fields["FAA"] == "nchar(3)"
    assert complete["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] == 1458
    assert complete["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 1457


@pytest.mark.usefixtures("airflow_database")
def test_a_run_that_fails_says_why(house: House) -> None:
    *_, failed = events(house, 75)
    assert failed["eventType"] == "FAIL"
    message = failed["run"]["facets"]["errorMessage"]["message"]
    assert "gone" in message


def test_a_warehouse_that_is_a_file_is_named_by_it(house: House) -> None:
    from airflow_datakit import DatakitOperator

    task = DatakitOperator.create("x", datakit="sqlserver-bronze", dataset="airline.airports", warehouse="marketing")
    [output] = task.get_openlineage_facets_on_start().outputs
    assert (output.namespace, output.name) == ("file", f"{house.marketing}/reference.airports")

"""What landed: a few aggregates that no two different tables share by accident. Not a contender; it judges them."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import lineitem
from benchmarks.contenders import job as work

_AGGREGATES = (
    "count(*)",
    "sum(l_orderkey)",
    "sum(l_linenumber)",
    "sum(l_extendedprice)",
    "max(l_shipdate)",
    "sum(length(rtrim(l_comment)))",
    "count(DISTINCT l_shipmode)",
)


def aggregates(job: work.Job) -> list[str]:
    """Return the aggregates of the job's table in its target, as text; without a target, of what the server has."""
    columns = ", ".join(f"CAST({aggregate} AS varchar)" for aggregate in _AGGREGATES)
    rows: list[tuple[Any, ...]]
    if job.target == "postgres":
        import psycopg

        assert job.postgres
        with psycopg.connect(**job.postgres) as postgres:
            rows = postgres.execute(f"SELECT {columns} FROM bronze.{job.table}").fetchall()
        return [str(value) for value in rows[0]]

    import duckdb

    if job.target == "duckdb":
        assert job.duckdb_file
        with duckdb.connect(job.duckdb_file, read_only=True) as connection:
            rows = connection.execute(f"SELECT {columns} FROM bronze.{job.table}").fetchall()
    else:
        count = job.options["rows"]
        source = "(SELECT * FROM read_parquet(?) LIMIT ?)"
        rows = duckdb.execute(f"SELECT {columns} FROM {source}", [str(lineitem.parquet(count)), count]).fetchall()
    return [str(value) for value in rows[0]]


if __name__ == "__main__":
    print(json.dumps(aggregates(work.read())))

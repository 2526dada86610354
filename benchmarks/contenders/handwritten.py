"""What a good engineer writes in an afternoon: Microsoft's driver, Arrow, and the fastest way in of the warehouse.

No contract, no counts, no log, no metadata, no retry, no atomic swap with what was there: only the rows.
"""

from __future__ import annotations

from typing import Any

import mssql_python
import pyarrow as pa

from benchmarks.contenders import job as work

_BATCH_ROWS = 65_536
_POSTGRES_TYPES = {"int64": "bigint", "int32": "integer", "date32[day]": "date", "string": "text"}


def main() -> None:
    """Import what the target needs, then load."""
    job = work.read()
    if job.target == "duckdb":
        import duckdb  # noqa: F401
    else:
        import pgpq  # noqa: F401
        import psycopg  # noqa: F401
    work.timed(lambda: load(job))


def load(job: work.Job) -> int:
    """Copy the table into the job's target."""
    source = mssql_python.connect(work.connection_string(job), autocommit=True)
    with source.cursor() as cursor:
        cursor.execute(f"SELECT * FROM dbo.{job.table}")
        reader = cursor.arrow_reader(batch_size=_BATCH_ROWS)
        return _into_duckdb(job, reader) if job.target == "duckdb" else _into_postgres(job, reader)


def _into_duckdb(job: work.Job, reader: Any) -> int:
    import duckdb

    assert job.duckdb_file
    with duckdb.connect(job.duckdb_file) as target:
        stream = pa.RecordBatchReader.from_stream(reader)
        target.register("stream", stream)
        target.execute("CREATE SCHEMA bronze")
        target.execute(f"CREATE TABLE bronze.{job.table} AS SELECT * FROM stream")
        (rows,) = target.execute(f"SELECT count(*) FROM bronze.{job.table}").fetchall()[0]
    return int(rows)


def _into_postgres(job: work.Job, reader: Any) -> int:
    import pgpq
    import psycopg

    assert job.postgres
    schema = pa.schema([_plain(field) for field in reader.schema])
    columns = ", ".join(
        f"{field.name} {_POSTGRES_TYPES.get(str(field.type)) or f'numeric({field.type.precision},{field.type.scale})'}"
        for field in schema
    )
    encoder = pgpq.ArrowToPostgresBinaryEncoder(schema)
    rows = 0
    with psycopg.connect(**job.postgres) as target, target.cursor() as cursor:
        cursor.execute("CREATE SCHEMA bronze")
        cursor.execute(f"CREATE TABLE bronze.{job.table} ({columns})")
        with cursor.copy(f"COPY bronze.{job.table} FROM STDIN (FORMAT binary)") as copy:
            copy.write(encoder.write_header())
            for batch in reader:
                copy.write(encoder.write_batch(batch.cast(schema)))
                rows += batch.num_rows
            copy.write(encoder.finish())
    return rows


def _plain(field: pa.Field) -> pa.Field:
    """Return a field as pgpq wants it: it knows no large_string."""
    return field.with_type(pa.string()) if pa.types.is_large_string(field.type) else field


if __name__ == "__main__":
    main()

"""dlt's ``sql_database`` source into dlt's destinations, in the configuration that its manual recommends for speed.

Its manual offers three ways to read SQL Server in bulk: ``connectorx`` as a stream of Arrow batches, ``connectorx``
in one piece, and ``pyarrow``, which builds Arrow from rows of a SQLAlchemy driver. That driver is pyodbc with
Microsoft's ODBC driver, the faster one of the two that dlt names. dlt's telemetry is off; extraction, normalisation
and loading are timed, its imports are not.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

import dlt  # type: ignore[import-not-found, unused-ignore]  # it lives in the virtual environment of the peers
from dlt.sources.sql_database import sql_table  # type: ignore[import-not-found, unused-ignore]  # likewise

from benchmarks.contenders import job as work

_CHUNK_ROWS = 100_000


_USED_LATER: Final = (
    "connectorx",
    "dlt.destinations.impl.duckdb.duck",
    "dlt.destinations.impl.postgres.postgres",
    "dlt.extract.extract",
    "dlt.load.load",
    "dlt.normalize.normalize",
    "duckdb",
    "psycopg2",
    "pyarrow.parquet",
    "pyodbc",
    "sqlalchemy.dialects.mssql.pyodbc",
)
"""What dlt imports at first use; imported before, so that it is left out for dlt as it is for everybody else."""


def load(job: work.Job) -> int:
    """Run one pipeline from nothing: extract, normalise, load."""
    backend = job.options["backend"]
    url = (
        f"mssql+pyodbc://{quote_plus(job.user)}:{quote_plus(job.password)}@{job.host}:{job.port}/{job.database}"
        f"?driver={quote_plus(job.options['driver'])}&Encrypt=no&PacketSize=32767"
    )
    arguments: dict[str, Any] = {}
    if backend != "pyarrow":
        # connectorx encrypts as soon as there is an encrypt=… in the URL, even encrypt=false; nobody else here encrypts
        plain = f"mssql://{quote_plus(job.user)}:{quote_plus(job.password)}@{job.host}:{job.port}/{job.database}"
        arguments["backend_kwargs"] = {"conn": plain}
        if backend == "arrow_stream":
            arguments["backend_kwargs"]["return_type"] = "arrow_stream"
    table = sql_table(
        credentials=url,
        schema="dbo",
        table=job.table,
        backend="pyarrow" if backend == "pyarrow" else "connectorx",
        chunk_size=_CHUNK_ROWS,
        reflection_level="full_with_precision",
        **arguments,
    )
    pipeline = dlt.pipeline(
        "bench",
        destination=_destination(job),
        dataset_name="bronze",
        pipelines_dir=str(Path(job.work_folder) / "dlt"),
    )
    # Parquet is what it loads fastest; left to itself it sends a stream to PostgreSQL as INSERT statements
    pipeline.run(table, write_disposition="replace", loader_file_format="parquet").raise_on_failed_jobs()
    counts = pipeline.last_trace.last_normalize_info.row_counts
    return int(counts[job.table])


def _destination(job: work.Job) -> Any:
    if job.target == "duckdb":
        return dlt.destinations.duckdb(job.duckdb_file)
    assert job.postgres
    server = job.postgres
    return dlt.destinations.postgres(
        f"postgresql://{quote_plus(server['user'])}:{quote_plus(server['password'])}"
        f"@{server['host']}:{server['port']}/{server['dbname']}"
    )


if __name__ == "__main__":
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    for module in _USED_LATER:
        importlib.import_module(module)
    work.run(load)

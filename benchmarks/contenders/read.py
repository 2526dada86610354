"""The driver alone: Microsoft's driver turns the answer into Arrow batches, and they are thrown away.

It is the floor of everybody who uses this driver through one connection, whatever he does with the rows.
"""

from __future__ import annotations

import mssql_python
import pyarrow  # noqa: F401  # the driver imports it at its first batch

from benchmarks.contenders import job as work

_BATCH_ROWS = 16_384


def read(job: work.Job) -> int:
    """Read the whole table; return how many rows came."""
    connection = mssql_python.connect(work.connection_string(job), autocommit=True)
    rows = 0
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM dbo.{job.table}")
        while count := cursor.arrow_batch(_BATCH_ROWS).num_rows:
            rows += count
    connection.close()
    return rows


if __name__ == "__main__":
    work.run(read)

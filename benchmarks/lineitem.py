"""The data: TPC-H ``lineitem``, made by ``tpchgen-cli`` and kept in the user's cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

SLICE_COLUMN: Final = "l_orderkey"
"""The table is sorted by it."""

# TPC-H 1.4.1 asks for fixed text in the four columns of char; 64-bit keys are its "identifier" at any scale
COLUMNS: Final[dict[str, str]] = {
    "l_orderkey": "bigint",
    "l_partkey": "bigint",
    "l_suppkey": "bigint",
    "l_linenumber": "int",
    "l_quantity": "decimal(15,2)",
    "l_extendedprice": "decimal(15,2)",
    "l_discount": "decimal(15,2)",
    "l_tax": "decimal(15,2)",
    "l_returnflag": "char(1)",
    "l_linestatus": "char(1)",
    "l_shipdate": "date",
    "l_commitdate": "date",
    "l_receiptdate": "date",
    "l_shipinstruct": "char(25)",
    "l_shipmode": "char(10)",
    "l_comment": "varchar(44)",
}
"""Column → T-SQL type; all are NOT NULL."""

_PARTS: Final = 5  # one of them has 1.2 million rows at scale 1
_BATCH_ROWS: Final = 65_536


def parquet(rows: int) -> Path:
    """Return a Parquet file that holds at least the first ``rows`` rows of lineitem, made at the first call.

    :param rows: up to 1,000,000 come from scale factor 1, more from scale factor 10 (at most 10,000,000).
    """
    scale = 1 if rows <= 1_000_000 else 10
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datakit-lab"
    kept = cache / f"lineitem-sf{scale}-1of{_PARTS}.parquet"
    if kept.exists():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        program = shutil.which("tpchgen-cli") or str(Path(sys.executable).with_name("tpchgen-cli"))
        command = [program, "parquet", "-s", str(scale), "--tables=lineitem", f"--output-dir={scratch}"]
        parts = [f"--parts={_PARTS}", "--part=1"]
        subprocess.run([*command, *parts], check=True, stdout=subprocess.DEVNULL)
        (made,) = Path(scratch).rglob("*.parquet")
        made.replace(kept)
    return kept


def batches(rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the first ``rows`` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    left = rows
    for batch in pq.ParquetFile(parquet(rows)).iter_batches(_BATCH_ROWS):
        if not left:
            return
        part = batch.slice(0, left)
        left -= part.num_rows
        fields = [
            field.with_type(pa.string()) if pa.types.is_string_view(field.type) else field for field in part.schema
        ]
        yield part.cast(pa.schema(fields).remove_metadata())
    if left:
        raise ValueError(f"{rows:,} rows were asked for, and there are {rows - left:,}")

"""``_dk_row_hash``: the SHA-256 of a row's values, the same for the same values in every warehouse.

Arrow has no kernel that hashes rows, and Python would do it row by row; DuckDB does it in vectors over the same
memory. Each value is encoded as ``LENGTH:TEXT`` and NULL as ``~``, so that no two different rows encode alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from datakit.errors import DriverMissing

if TYPE_CHECKING:
    import pyarrow as pa


class RowHasher:
    """Hashes the rows of batches of one schema. Owns a DuckDB connection: one per thread, close it."""

    def __init__(self, schema: pa.Schema) -> None:
        try:
            import duckdb
        except ImportError as error:
            raise DriverMissing.of("the row hash", "duckdb", error) from error
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        encoded = ", ".join(_encode(field) for field in schema)
        self._query = f"SELECT sha256(concat({encoded})) AS hash FROM batch"  # noqa: S608  # identifiers are quoted

    def hash(self, batch: pa.RecordBatch) -> pa.Array:
        """Return one hexadecimal digest of 64 characters per row."""
        import pyarrow as pa

        self._connection.register("batch", pa.Table.from_batches([batch]))
        table: pa.Table = self._connection.sql(self._query).to_arrow_table()
        return table.column("hash").combine_chunks().cast(pa.string())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _encode(field: pa.Field) -> str:
    import pyarrow as pa

    name = '"' + field.name.replace('"', '""') + '"'
    text = f"CAST({name} AS VARCHAR)"
    if pa.types.is_binary(field.type):
        text = f"hex({name})"
    elif pa.types.is_timestamp(field.type):
        text = f"CAST(epoch_us({name}) AS VARCHAR)"
    return f"CASE WHEN {name} IS NULL THEN '~' ELSE concat(strlen({text}), ':', {text}) END"

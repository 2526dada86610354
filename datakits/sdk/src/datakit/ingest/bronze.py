"""The bronze step: names, metadata columns and the row hash. What turns a source's rows into a warehouse's rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from datakit.errors import NameCollision, ValueRefused
from datakit.model.contract import Column, Contract
from datakit.model.manifest import Naming
from datakit.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa

    from datakit.ingest.row_hash import RowHasher

LOADED_AT: Final = Column(name="_dk_loaded_at", type=DataType("timestamptz"))
RUN_ID: Final = Column(name="_dk_run_id", type=DataType("string"))
SOURCE: Final = Column(name="_dk_source", type=DataType("string"))
DATAKIT: Final = Column(name="_dk_datakit", type=DataType("string"))
ROW_HASH: Final = Column(name="_dk_row_hash", type=DataType("string"), nullable=False)

METADATA_PREFIX: Final = "_dk_"
# PostgreSQL cuts longer identifiers silently, which would make two columns one.
_LONGEST_NAME_BYTES: Final = 63
_WORD_BOUNDARY = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][^\W\d_A-Z])|(?<=\d)(?=[A-Z][^\W\d_A-Z])")
_NOT_A_WORD = re.compile(r"\W+")


def snake_case(name: str) -> str:
    """Spell a name in lower-case words joined by underscores: ``FlightID`` → ``flight_id``.

    A name longer than 63 bytes, PostgreSQL's limit, ends in eight digits of its own SHA-256 instead of its tail.
    """
    words = _NOT_A_WORD.sub("_", _WORD_BOUNDARY.sub("_", name)).strip("_").lower()
    words = re.sub(r"__+", "_", words)
    if not words or words[0].isdigit():
        words = f"_{words}"
    if len(words.encode()) > _LONGEST_NAME_BYTES:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        words = f"{words.encode()[: _LONGEST_NAME_BYTES - 9].decode(errors='ignore')}_{digest}"
    return words


def warehouse_names(columns: Iterable[str], naming: Naming, *, subject: str) -> dict[str, str]:
    """Map each source column to its name in the warehouse.

    :param subject: the dataset, for errors.
    :raises NameCollision: two columns get one name, or one gets the name of a metadata column.
    """
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for column in columns:
        name = snake_case(column) if naming is Naming.SNAKE_CASE else column
        # Warehouses fold case when they compare unquoted names, so names that differ by case alone collide as well.
        folded = name.casefold()
        if folded.startswith(METADATA_PREFIX):
            raise NameCollision(
                f"column {column!r} would be named {name!r}, but names with {METADATA_PREFIX} belong to datakit",
                subject=subject,
                fix="give the column another name in a sql dataset: SELECT … AS …",
            )
        if folded in taken:
            raise NameCollision(
                f"columns {taken[folded]!r} and {column!r} would both be named {name!r}",
                subject=subject,
                cause=f"the naming policy is {naming}",
                fix="set naming: preserve, or rename one of them in a sql dataset: SELECT … AS …",
            )
        taken[folded] = column
        names[column] = name
    return names


def constants(
    *, loaded_at: datetime, run_id: str, source: str, datakit: str
) -> dict[str, tuple[Column, str | datetime]]:
    """Return the metadata columns that hold one value for the whole load."""
    values: tuple[tuple[Column, str | datetime], ...] = (
        (LOADED_AT, loaded_at),
        (RUN_ID, run_id),
        (SOURCE, source),
        (DATAKIT, datakit),
    )
    return {column.name: (column, value) for column, value in values}


@dataclass(frozen=True, slots=True)
class BronzeStep:
    """Turns batches of one contract into batches of the warehouse's table. One instance serves every worker.

    :ivar contract: what the source's stream brings.
    :ivar columns: what the warehouse gets, in the contract's order; ``_dk_row_hash`` last if it is asked for.
    :ivar key: the key's columns under their names in the source, for messages.
    """

    contract: Contract
    columns: tuple[Column, ...]
    hashed: bool = False

    def apply(self, batch: pa.RecordBatch, hasher: RowHasher | None) -> pa.RecordBatch:
        """Rename and widen one batch and hash its rows. Copies nothing that keeps its type.

        :raises ValueRefused: a value does not fit the warehouse's column.
        """
        import pyarrow as pa

        arrays: list[pa.Array] = []
        for source, target, array in zip(self.contract.columns, self.columns, batch.columns, strict=False):
            arrow_type = target.type.arrow()
            if array.type != arrow_type:
                try:
                    array = array.cast(arrow_type)
                except pa.ArrowInvalid as error:
                    raise ValueRefused(
                        f"a value does not fit {target.type}: {error}", subject=f"{self.contract.dataset}.{source.name}"
                    ) from None
            arrays.append(array)
        if hasher is not None:
            arrays.append(hasher.hash(batch))
        return pa.RecordBatch.from_arrays(arrays, schema=self.arrow_schema())

    def arrow_schema(self) -> pa.Schema:
        """Return the schema of the batches that :meth:`apply` returns."""
        import pyarrow as pa

        return pa.schema([pa.field(column.name, column.type.arrow(), column.nullable) for column in self.columns])


def bronze_columns(contract: Contract, names: Mapping[str, str], *, row_hash: bool) -> tuple[Column, ...]:
    """Return the contract's columns under the warehouse's names, and ``_dk_row_hash`` if it is asked for."""
    columns = tuple(column.model_copy(update={"name": names[column.name]}) for column in contract.columns)
    return (*columns, ROW_HASH) if row_hash else columns

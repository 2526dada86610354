"""The values that pass between the engine, a source and a warehouse. Plain frozen dataclasses, no behaviour.

This is the seam: a new source or warehouse is written against this module and its Protocol alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from datakit.model.contract import Column
from datakit.model.manifest import LoadMode


@dataclass(frozen=True, slots=True)
class TableName:
    """A table of a warehouse, as two unquoted identifiers."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a dataset that an incremental load reads, on its cursor column.

    Values are text in the source's own notation (ISO 8601 for times, decimal digits for numbers, ``0x`` and hex
    digits for a rowversion), so that they survive the load log unchanged. ``since`` None means from the beginning;
    ``until`` None means that there is no value yet, because the dataset is empty.

    :ivar since: lower bound; ``since_inclusive`` says whether a row of exactly that value is read again.
    :ivar until: the cursor to store once the load is committed.
    :ivar bounded: whether rows beyond ``until`` are left for the next load. ``append`` needs it, so that no row is
        loaded twice. ``merge`` and ``replace`` must not have it: a row that is updated between planning and reading
        lies beyond ``until`` and would be missing; they read it now, and the next merge reads it again.
    :ivar changed_after: a value that every change made after the plan lies above, so that a row that was seen twice
        because it changed meanwhile can be told from two rows of one key. None: the source cannot say.
    """

    column: str
    since: str | None
    until: str | None
    since_inclusive: bool = False
    bounded: bool = False
    changed_after: str | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """Slice ``index`` (1-based) of ``count``: rows whose slice column lies in [``lower``, ``upper``).

    A bound of None is open. The first slice has no lower and the last no upper bound, so that the slices of a plan
    always cover the whole dataset.
    """

    index: int = 1
    count: int = 1
    column: str | None = None
    lower: str | None = None
    upper: str | None = None

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What one run reads: a window on the cursor, cut into slices. Stored once per run, shared by its workers.

    :ivar estimated_rows: for progress only; None if unknown.
    :ivar empty: whether the source already knows that the window holds no row.
    :ivar base_sequence: set by the engine: :attr:`LoadRecord.sequence` of the newest load when the plan was made.
    :ivar fingerprint: set by the engine: what the plan's workers must agree on (mode, columns, datakit).
    """

    window: Window | None
    slices: tuple[Slice, ...]
    estimated_rows: int | None = None
    empty: bool = False
    base_sequence: int = 0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One committed load, a row of the warehouse's ``_dk_loads``.

    :ivar rows: how many rows the load brought.
    :ivar rows_applied: how many of them the table got: fewer than ``rows`` if there were :class:`Versions` among them.
    :ivar cursor: the cursor's value after the load, in the source's notation; None without a cursor.
    :ivar bounded: :attr:`Window.bounded` of what the load read; what an append may continue from.
    :ivar sequence: grows by one with every commit of the same table; what a later run compares to notice that
        somebody else committed in between.
    """

    run_id: str
    dataset: str
    table: TableName
    mode: LoadMode
    datakit: str
    rows: int
    rows_applied: int
    cursor_column: str | None
    cursor: str | None
    bounded: bool
    sequence: int
    loaded_at: datetime


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as the warehouse has it: its columns in contract types, without the ``_dk_`` metadata columns."""

    columns: tuple[Column, ...]
    metadata: tuple[Column, ...]
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Versions:
    """How several rows of one key are told to be one row that changed while it was read.

    A source that is written to while it is read may show a row before a change and again after it. All rows of the key
    but one then lie above ``changed_after``, and no two have the same value; the highest is applied. Rows of a key for
    which this is not so are two rows, and the load is refused.

    :ivar column: the cursor column under the warehouse's name, one of the load's columns.
    :ivar changed_after: :attr:`Window.changed_after` as a value of that column.
    """

    column: str
    changed_after: int | Decimal | bytes | date | datetime


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """Everything a warehouse needs to know about one load before the first row.

    :ivar columns: the columns that batches bring, under the warehouse's names, in order.
    :ivar constants: metadata columns with one value for the whole load (``_dk_run_id`` …), which the warehouse adds
        by itself, because it can do so without moving a byte. A value is ``str`` or an aware ``datetime``.
    :ivar key: key columns under the warehouse's names; ``merge`` needs them.
    :ivar add: columns to add to the existing table first, in the transaction that commits the load.
    :ivar widen: columns of the existing table whose type becomes the wider one named here, likewise.
    :ivar base_sequence: :attr:`LoadRecord.sequence` of the newest load when the run began, 0 if there was none.
        Commit refuses with LoadInProgress if it is another by then.
    :ivar slices: how many slices the load has; commit refuses until all are staged.
    :ivar cursor_column: the cursor column under the source's name, for the load log.
    :ivar bounded: :attr:`Window.bounded`, for the load log.
    :ivar versions: how to tell versions of a row from rows that share a key; None: two rows of one key are refused.
    """

    run_id: str
    dataset: str
    datakit: str
    table: TableName
    mode: LoadMode
    columns: tuple[Column, ...]
    constants: Mapping[str, tuple[Column, str | datetime]]
    key: tuple[str, ...]
    base_sequence: int
    slices: int = 1
    add: tuple[Column, ...] = ()
    widen: tuple[Column, ...] = ()
    cursor_column: str | None = None
    bounded: bool = False
    versions: Versions | None = None

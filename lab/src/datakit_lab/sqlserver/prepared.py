"""Results encoded once and served from memory (or a mapped file), for benchmarks in which the server may not count.

A prepared result knows the text it answers, exactly or by a predicate. If it is sorted by a slice column, a text with
conditions on that column (``[l_orderkey] >= 7 AND [l_orderkey] < 9000``, literals or parameters) is answered with
exactly the rows of that range: the keys and the byte offset of every row are kept, so a range is two binary searches
and one contiguous run of bytes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit_lab.sqlserver import tokens
from datakit_lab.sqlserver.backend import Parameter, ResultColumn
from datakit_lab.sqlserver.encoding import RowEncoder
from datakit_lab.sqlserver.encoding.arrays import numbers, plain

_SEND_BYTES: Final = 1 << 20
_NUMBER = r"(?P<value>[-+]?\d+|@\w+)"
_TRAILING_COUNT = re.compile(
    r"^(?P<query>.*?)[\s;]*(?P<count>\bSELECT\s+(?:@@ROWCOUNT|ROWCOUNT_BIG\s*\(\s*\))[^;]*;?\s*)$",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class RowRange:
    """The rows from ``start`` to ``stop`` (exclusive) of a prepared result."""

    result: PreparedResult
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return self.stop - self.start

    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the rows' tokens, about a megabyte at a time."""
        offsets = self.result.offsets
        first, last = int(offsets[self.start]), int(offsets[self.stop])
        for at in range(first, last, _SEND_BYTES):
            yield self.result.data[at : min(at + _SEND_BYTES, last)]


class PreparedResult:
    """One query's rows as ready TDS tokens. Make it with :meth:`encode`.

    :ivar metadata: the COLMETADATA token.
    :ivar data: all ROW and NBCROW tokens.
    :ivar offsets: where each row begins in ``data``, and the end.
    :ivar keys: the slice column's values in rising order; None without one.
    """

    def __init__(
        self,
        columns: tuple[ResultColumn, ...],
        data: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int64],
        keys: npt.NDArray[np.int64] | None,
        slice_column: str | None,
    ) -> None:
        self.columns = columns
        self.metadata = tokens.column_metadata(columns)
        self.data = data
        self.offsets = offsets
        self.keys = keys
        self._bounds = _bounds_pattern(slice_column) if slice_column else None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.offsets) - 1

    @classmethod
    def encode(
        cls,
        columns: Sequence[ResultColumn],
        batches: Iterable[pa.RecordBatch],
        *,
        slice_column: str | None = None,
        folder: Path | None = None,
    ) -> PreparedResult:
        """Encode batches once.

        :param slice_column: a NOT NULL integer column by which the batches are sorted.
        :param folder: write the tokens to an unnamed file here and map it, instead of keeping them in memory;
            for results that are larger than memory should hold (10 million rows).
        :raises ValueError: the slice column is missing or not sorted.
        """
        encoder = RowEncoder(columns)
        names = [column.name for column in columns]
        if slice_column is not None and slice_column not in names:
            raise ValueError(f"no column {slice_column!r} among {', '.join(names)}")
        lengths: list[npt.NDArray[np.int64]] = []
        keys: list[npt.NDArray[np.int64]] = []
        size = 0
        with tempfile.TemporaryFile(dir=folder) if folder else _Memory() as file:
            for batch in batches:
                if slice_column is not None:
                    key = plain(batch.column(names.index(slice_column)))
                    if key.null_count:
                        raise ValueError(f"slice column {slice_column!r} holds a NULL")
                    keys.append(numbers(key, pa.int64(), "<i8").copy())
                for block in encoder.blocks(batch):
                    file.write(block.data.data)
                    size += len(block.data)
                    lengths.append(block.lengths)
            data = file.finish() if isinstance(file, _Memory) else _mapped(file, size)
        offsets = np.zeros(sum(map(len, lengths)) + 1, np.int64)
        if lengths:
            np.cumsum(np.concatenate(lengths), out=offsets[1:])
        joined = np.concatenate(keys) if keys else None
        if joined is not None and np.any(joined[1:] < joined[:-1]):
            raise ValueError(f"the rows are not sorted by {slice_column!r}")
        return cls(tuple(columns), data, offsets, joined, slice_column)

    def select(self, sql: str, parameters: Sequence[Parameter] = ()) -> RowRange:
        """Return the rows that the text's conditions on the slice column leave.

        :raises ValueError: a bound is a parameter that was not sent or is no whole number.
        """
        start, stop = 0, self.rows
        if self._bounds is not None and self.keys is not None:
            given = {parameter.name.lower(): parameter.value for parameter in parameters}
            for found in self._bounds.finditer(sql):
                value = _bound(found["value"] or found["low"], given)
                if found["operator"] is None:
                    start = max(start, int(np.searchsorted(self.keys, value, "left")))
                    stop = min(stop, int(np.searchsorted(self.keys, _bound(found["high"], given), "right")))
                    continue
                left, right = (int(np.searchsorted(self.keys, value, side)) for side in ("left", "right"))
                lows = {">=": left, ">": right, "=": left}
                highs = {"<": left, "<=": right, "=": right}
                start = max(start, lows.get(found["operator"], 0))
                stop = min(stop, highs.get(found["operator"], self.rows))
        return RowRange(self, min(start, stop), stop)


def _bounds_pattern(column: str) -> re.Pattern[str]:
    name, bracketed = re.escape(column), re.escape(column.replace("]", "]]"))
    quoted = rf'(?:\[{bracketed}\]|"{name}"|(?<![\w@]){name}(?!\w))'
    low, high = _NUMBER.replace("value", "low"), _NUMBER.replace("value", "high")
    comparison = rf"(?P<operator>>=|<=|>|<|=)\s*\(?\s*(?:CAST\s*\(\s*|CONVERT\s*\(\s*\w+\s*,\s*)?{_NUMBER}"
    return re.compile(rf"{quoted}\s*(?:{comparison}|BETWEEN\s+{low}\s+AND\s+{high})", re.IGNORECASE)


def _bound(text: str, given: dict[str, Any]) -> int:
    if not text.startswith("@"):
        return int(text)
    name = text.lower()
    value = given.get(name, given.get(name.lstrip("@")))
    if value is None or int(value) != value:
        raise ValueError(f"the slice's bound {text} is {value!r}, not a whole number")
    return int(value)


class _Memory:
    """Collects token bytes in memory, as a file would."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.uint8]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._parts.clear()

    def write(self, data: memoryview) -> None:
        self._parts.append(np.frombuffer(data, np.uint8))

    def finish(self) -> npt.NDArray[np.uint8]:
        return np.concatenate(self._parts) if self._parts else np.empty(0, np.uint8)


def _mapped(file: Any, size: int) -> npt.NDArray[np.uint8]:
    file.flush()
    # the mapping keeps the unnamed file alive after it is closed
    return np.memmap(file, np.uint8, "r", shape=(size,)) if size else np.empty(0, np.uint8)


Matcher = Callable[[str], bool]


class PreparedResults:
    """The prepared results of one server, asked before its backend."""

    def __init__(self) -> None:
        self._entries: list[tuple[Matcher, PreparedResult]] = []

    def add(self, match: str | Matcher, result: PreparedResult) -> None:
        """Answer texts with a result: those equal to ``match`` but for white space, or those it says yes to.

        Several that match: the first added wins.
        """
        if isinstance(match, str):
            wanted = _folded(match)
            self._entries.append((lambda sql: _folded(sql) == wanted, result))
        else:
            self._entries.append((match, result))

    def find(self, sql: str, parameters: Sequence[Parameter] = ()) -> tuple[RowRange, str] | None:
        """Return the rows for a text and what of it remains to be run: a trailing ``SELECT ROWCOUNT_BIG()``.

        :raises ValueError: see :meth:`PreparedResult.select`.
        """
        if not self._entries:
            return None
        found = _TRAILING_COUNT.match(sql)
        query, rest = (found["query"], found["count"]) if found else (sql, "")
        for match, result in self._entries:
            if match(query):
                return result.select(query, parameters), rest
        return None

    def describe(self, sql: str) -> tuple[ResultColumn, ...]:
        """Return the columns of the prepared result for a text; empty when there is none."""
        return next((result.columns for match, result in self._entries if match(sql)), ())


def _folded(sql: str) -> str:
    return " ".join(sql.split()).rstrip("; ")

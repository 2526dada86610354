"""What a column becomes before rows are put together: runs of bytes that each row holds, or not, in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same number of bytes in each row that has them.

    :ivar body: rows x width.
    :ivar present: which rows have them; None for every row whose value is not NULL.
    """

    body: Bytes
    present: Mask | None = None


@dataclass(frozen=True, slots=True)
class Varying:
    """As many bytes as ``lengths`` says, one row's after the other's in ``data``; NULL rows have length 0."""

    data: Bytes
    lengths: Ints
    starts: Ints = field(default_factory=lambda: np.zeros(1, np.int64))

    @staticmethod
    def of(data: Bytes, lengths: Ints) -> Varying:
        """Join data with its lengths and the row starts that follow from them."""
        starts = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        return Varying(data, lengths, starts)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a batch.

    :ivar head: rows x width, the length prefix, which also says NULL; None for types that cannot be NULL.
    :ivar body: what follows in rows that are not NULL.
    :ivar valid: rows that are not NULL; None when all are.
    """

    head: Bytes | None
    body: tuple[Fixed | Varying, ...]
    valid: Mask | None = None


def constant(rows: int, raw: bytes) -> Bytes:
    """Return the same bytes for each row, without copying them."""
    return np.broadcast_to(np.frombuffer(raw, np.uint8), (rows, len(raw)))


def little_endian(values: npt.NDArray[np.generic], dtype: str, width: int | None = None) -> Bytes:
    """Return each value's bytes (rows x width), cut to the low ``width`` bytes."""
    raw = np.ascontiguousarray(values.astype(dtype, copy=False)).view(np.uint8).reshape(len(values), -1)
    return raw if width is None else raw[:, :width]


def length_head(lengths: npt.NDArray[np.integer], valid: Mask | None, dtype: str, null: int) -> Bytes:
    """Return length prefixes of one dtype, with ``null`` where the value is NULL."""
    values = lengths if valid is None else np.where(valid, lengths, np.array(null, dtype))
    return little_endian(values, dtype)

"""Put columns together to ROW and NBCROW tokens.

A block of rows is laid out as a matrix with each value padded to the block's widest, together with a mask of the
bytes that count; one masked copy then closes the gaps. That is a few numpy calls per column and block, whatever the
number of rows. A block whose matrix would be too large (one long value among many short) is halved until it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from datakit_lab.sqlserver.backend import ResultColumn, SqlError, SqlType
from datakit_lab.sqlserver.encoding.arrays import plain
from datakit_lab.sqlserver.encoding.numeric import (
    encode_bit,
    encode_decimal,
    encode_float,
    encode_integer,
    encode_money,
)
from datakit_lab.sqlserver.encoding.pieces import Bytes, Column, Fixed, Ints, Mask, Varying, constant
from datakit_lab.sqlserver.encoding.temporal import (
    encode_date,
    encode_datetime,
    encode_datetime2,
    encode_datetimeoffset,
    encode_smalldatetime,
    encode_time,
)
from datakit_lab.sqlserver.encoding.text import encode_lob, encode_text, encode_uniqueidentifier
from datakit_lab.sqlserver.encoding.variant import encode_variant
from datakit_lab.sqlserver.typeinfo import UDTS, canonical

ROW, NBCROW = b"\xd1", b"\xd2"
_MATRIX_CELLS: Final = 1 << 20
_SLICE_ROWS: Final = 16_384
_SLICE_BYTES: Final = 8 << 20

_ENCODERS: Final[dict[str, Callable[..., Column]]] = {
    "bit": encode_bit,
    **dict.fromkeys(("tinyint", "smallint", "int", "bigint"), encode_integer),
    **dict.fromkeys(("decimal", "numeric"), encode_decimal),
    **dict.fromkeys(("money", "smallmoney"), encode_money),
    **dict.fromkeys(("real", "float"), encode_float),
    "date": encode_date,
    "time": encode_time,
    "smalldatetime": encode_smalldatetime,
    "datetime": encode_datetime,
    "datetime2": encode_datetime2,
    "datetimeoffset": encode_datetimeoffset,
    **dict.fromkeys(
        ("char", "varchar", "nchar", "nvarchar", "binary", "varbinary", "rowversion", "xml", *UDTS), encode_text
    ),
    **dict.fromkeys(("text", "ntext", "image"), encode_lob),
    "uniqueidentifier": encode_uniqueidentifier,
    "sql_variant": encode_variant,
}


@dataclass(frozen=True, slots=True)
class Block:
    """Encoded rows, ready to send.

    :ivar lengths: bytes of each row.
    """

    data: Bytes
    lengths: Ints

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return len(self.lengths)


class RowEncoder:
    """Encodes the batches of one result set.

    :param columns: what COLMETADATA announced.
    :param null_bitmaps: the client reads NBCROW (TDS 7.3B and later).
    """

    def __init__(self, columns: Sequence[ResultColumn], *, null_bitmaps: bool = True) -> None:
        self._columns = tuple(replace(column, type=canonical(column.type)) for column in columns)
        self._null_bitmaps = null_bitmaps

    def blocks(self, batch: pa.RecordBatch) -> Iterator[Block]:
        """Encode a batch, a block of about a megabyte at a time.

        :raises SqlError: a value does not fit the column's type; the text names the column.
        """
        if batch.num_columns != len(self._columns):
            raise SqlError(8180, f"{batch.num_columns} columns came for {len(self._columns)} that were announced.")
        rows = batch.num_rows
        step = _SLICE_ROWS
        if rows:
            step = max(1, min(_SLICE_ROWS, _SLICE_BYTES * rows // max(1, batch.nbytes)))
        for start in range(0, rows, step):
            part = batch.slice(start, step)
            encoded = [self._encode(column, part.column(i)) for i, column in enumerate(self._columns)]
            yield from self._split(encoded, 0, part.num_rows)

    @staticmethod
    def _encode(column: ResultColumn, array: pa.Array) -> Column:
        try:
            if array.type.id == pa.null().id:
                array = array.cast(_null_type(column.type))
            return _ENCODERS[column.type.name](plain(array), column.type, nullable=column.nullable)
        except SqlError as error:
            raise SqlError(error.number, f"Column [{column.name}]: {error.text}") from error
        except KeyError:
            raise SqlError(8180, f"Column [{column.name}] has the unknown type {column.type.name}.") from None
        except (ValueError, TypeError, OverflowError, pa.ArrowException) as reason:
            raise SqlError(8115, f"Column [{column.name}] ({column.type.name}): {reason}") from reason

    def _split(self, columns: Sequence[Column], start: int, stop: int) -> Iterator[Block]:
        if not stop - start:
            return
        cells = (stop - start) * sum(_width(column, start, stop) for column in columns)
        if cells > _MATRIX_CELLS and stop - start > 1:
            middle = (start + stop) // 2
            yield from self._split(columns, start, middle)
            yield from self._split(columns, middle, stop)
        else:
            yield self._block(columns, start, stop)

    def _block(self, columns: Sequence[Column], start: int, stop: int) -> Block:
        rows = stop - start
        bitmap = self._bitmap(columns, start, stop)
        matrix = _Matrix(rows)
        if bitmap is None:
            matrix.add(constant(rows, ROW), None)
        else:
            matrix.add(constant(rows, NBCROW), None)
            matrix.add(bitmap, None)
        for column in columns:
            valid = None if column.valid is None else column.valid[start:stop]
            if valid is not None and valid.all():
                valid = None
            if column.head is not None:
                matrix.add(column.head[start:stop], valid if bitmap is not None else None)
            for piece in column.body:
                if isinstance(piece, Varying):
                    matrix.add_varying(piece, start, stop)
                else:
                    present = None if piece.present is None else piece.present[start:stop]
                    matrix.add(piece.body[start:stop], _both(valid, present))
        return matrix.close()

    def _bitmap(self, columns: Sequence[Column], start: int, stop: int) -> Bytes | None:
        """Return NBCROW's bitmap when it costs less than the length prefixes of the NULLs it saves."""
        if not self._null_bitmaps:
            return None
        saved = 0
        for column in columns:
            if column.valid is not None and column.head is not None:
                saved += int((~column.valid[start:stop]).sum()) * column.head.shape[1]
        rows = stop - start
        if saved <= rows * ((len(columns) + 7) // 8):
            return None
        nulls = np.zeros((rows, len(columns)), np.bool_)
        for i, column in enumerate(columns):
            if column.valid is not None:
                nulls[:, i] = ~column.valid[start:stop]
        return np.packbits(nulls, axis=1, bitorder="little")


class _Matrix:
    """Collects the pieces of a block, then joins them row by row."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._width = 0
        self._parts: list[tuple[int, Bytes | Varying, Mask | None, int, int]] = []

    def add(self, body: Bytes, present: Mask | None) -> None:
        self._parts.append((self._width, body, present, 0, 0))
        self._width += body.shape[1]

    def add_varying(self, piece: Varying, start: int, stop: int) -> None:
        width = int(piece.lengths[start:stop].max(initial=0))
        if width:
            self._parts.append((self._width, piece, None, start, stop))
            self._width += width

    def close(self) -> Block:
        cells = np.empty((self._rows, self._width), np.uint8)
        lengths = np.full(self._rows, self._width, np.int64)
        absent: list[tuple[int, int, Mask]] = []
        for at, body, present, start, stop in self._parts:
            if isinstance(body, Varying):
                sizes = body.lengths[start:stop]
                width = int(sizes.max())
                data = body.data[body.starts[start] : body.starts[stop]]
                if len(data) == width * self._rows:  # one row, or all of one length: a value of a gigabyte fits, too
                    cells[:, at : at + width] = data.reshape(self._rows, width)
                    continue
                inside = np.arange(width) < sizes[:, None]
                cells[:, at : at + width][inside] = data
                absent.append((at, width, inside))
                lengths += sizes - width
                continue
            width = body.shape[1]
            cells[:, at : at + width] = body
            if present is not None and not present.all():
                absent.append((at, width, present[:, None]))
                lengths -= np.where(present, 0, width)
        if not absent:
            return Block(cells.reshape(-1), lengths)
        mask = np.ones((self._rows, self._width), np.bool_)
        for at, width, present in absent:
            mask[:, at : at + width] = present
        return Block(cells[mask], lengths)


def _both(left: Mask | None, right: Mask | None) -> Mask | None:
    if left is None or right is None:
        return right if left is None else left
    return left & right


def _width(column: Column, start: int, stop: int) -> int:
    width = 0 if column.head is None else column.head.shape[1]
    for piece in column.body:
        if isinstance(piece, Fixed):
            width += piece.body.shape[1]
        else:
            width += int(piece.lengths[start:stop].max(initial=0))
    return width


def _null_type(sql_type: SqlType) -> pa.DataType:
    """Return an Arrow type that the encoder of a T-SQL type reads, for columns that came without one."""
    if sql_type.name in ("char", "varchar", "nchar", "nvarchar", "text", "ntext", "xml", "uniqueidentifier"):
        return pa.large_string()
    if sql_type.name in ("binary", "varbinary", "rowversion", "image", *UDTS):
        return pa.large_binary()
    if sql_type.name in ("decimal", "numeric"):
        return pa.decimal128(sql_type.precision or 18, sql_type.scale or 0)
    if sql_type.name in ("money", "smallmoney"):
        return pa.decimal128(19, 4)
    return pa.int64()

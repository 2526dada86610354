"""Arrow arrays as numpy views: the values, the validity, and the bytes of strings."""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit_lab.sqlserver.encoding.pieces import Bytes, Ints, Mask


def plain(array: pa.Array) -> pa.Array:
    """Return the array without dictionary or run-end encoding."""
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if pa.types.is_run_end_encoded(array.type):
        return pc.run_end_decode(array)
    return array


def validity(array: pa.Array) -> Mask | None:
    """Return which values are not NULL; None when all are."""
    if not array.null_count:
        return None
    mask: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return mask


def numbers(array: pa.Array, target: pa.DataType, dtype: str) -> npt.NDArray[Any]:
    """Return values of a primitive Arrow type (NULL as zero) as a numpy array.

    :raises pa.ArrowInvalid: a value does not fit the type.
    """
    if array.type != target:
        if pa.types.is_decimal(target) and pa.types.is_integer(array.type):
            # Arrow wants room for every whole number first, then accepts those that are there
            array = array.cast(pa.decimal128(19, 0)).cast(pa.decimal128(38, target.scale))
        array = array.cast(target)
    if array.null_count:
        # a whole number cannot be cast to every decimal
        zero = pa.scalar(decimal.Decimal(0), target) if pa.types.is_decimal(target) else pa.scalar(0).cast(target)
        array = pc.fill_null(array, zero)
    view: npt.NDArray[Any] = np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]
    return view


def byte_runs(array: pa.Array) -> tuple[Bytes, Ints]:
    """Return the bytes of all values of a string or binary array, one after the other, and each one's length."""
    if pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.binary())
    if not (pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)):
        wide = pa.large_binary() if _is_binary(array.type) else pa.large_string()
        array = array.cast(wide)
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(b"" if _is_binary(array.type) else "", array.type))
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    if data_buffer is None or len(array) == 0:
        return np.empty(0, np.uint8), np.zeros(len(array), np.int64)
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    return data, np.diff(offsets)


def is_bytes(array: pa.Array) -> bool:
    """Say whether the array holds raw bytes rather than text."""
    return _is_binary(array.type) or bool(pa.types.is_fixed_size_binary(array.type))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

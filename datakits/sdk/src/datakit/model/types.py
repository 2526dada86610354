"""The types of a contract: a small, closed set that every source maps to and every warehouse can hold.

They are names, not Arrow objects, because parsing a DAG must not import pyarrow; :meth:`DataType.arrow` imports it
when a run needs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from pydantic_core import core_schema

if TYPE_CHECKING:
    import pyarrow as pa

TypeName = Literal[
    "boolean",
    "int16",
    "int32",
    "int64",
    "float32",
    "float64",
    "decimal",
    "string",
    "binary",
    "date",
    "time",
    "timestamp",
    "timestamptz",
]

TYPE_NAMES: Final[tuple[str, ...]] = get_args(TypeName)
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")
_INTEGER_DIGITS = {"int16": 5, "int32": 10, "int64": 19}
_WIDER: dict[str, frozenset[str]] = {
    "int16": frozenset({"int32", "int64"}),
    "int32": frozenset({"int64"}),
    "float32": frozenset({"float64"}),
    "date": frozenset(),
}
# Types on which "greater than the last value" means "changed later".
_ORDERED = frozenset({"int16", "int32", "int64", "decimal", "date", "timestamp", "timestamptz", "binary"})


@dataclass(frozen=True, slots=True)
class DataType:
    """One type of a contract.

    ``time``, ``timestamp`` and ``timestamptz`` count microseconds; ``timestamptz`` is an instant in UTC;
    ``decimal`` has 1 to 38 digits of ``precision`` and a ``scale`` of 0 to ``precision``.
    """

    name: TypeName
    precision: int | None = None
    scale: int | None = None

    @classmethod
    def parse(cls, text: str) -> DataType:
        """Read ``int64`` or ``decimal(19,4)``.

        :raises ValueError: if the text names no type of a contract.
        """
        text = text.strip()
        if match := _DECIMAL.fullmatch(text):
            precision, scale = int(match[1]), int(match[2])
            if not 1 <= precision <= 38 or scale > precision:
                raise ValueError(f"{text!r} is out of range: decimal takes 1 to 38 digits, and a scale within them")
            return cls("decimal", precision, scale)
        if text == "decimal" or text not in TYPE_NAMES:
            known = ", ".join("decimal(p,s)" if name == "decimal" else name for name in TYPE_NAMES)
            raise ValueError(f"{text!r} is not a type; the types are {known}")
        return cls(text)  # type: ignore[arg-type]  # the line above has compared it with the literal's names

    def __str__(self) -> str:
        return f"decimal({self.precision},{self.scale})" if self.name == "decimal" else self.name

    @property
    def is_ordered(self) -> bool:
        """Whether a column of this type can be a cursor."""
        return self.name in _ORDERED

    def holds(self, other: DataType) -> bool:
        """Whether every value of ``other`` fits in this type without loss (true for the same type)."""
        if self == other:
            return True
        if self.name == "decimal":
            assert self.precision is not None  # noqa: S101  # parse() guarantees both
            assert self.scale is not None  # noqa: S101
            integer_digits = self.precision - self.scale
            if other.name == "decimal":
                assert other.precision is not None  # noqa: S101
                assert other.scale is not None  # noqa: S101
                return self.scale >= other.scale and integer_digits >= other.precision - other.scale
            return integer_digits >= _INTEGER_DIGITS.get(other.name, 99)
        return self.name in _WIDER.get(other.name, frozenset())

    def arrow(self) -> pa.DataType:
        """Return the Arrow type that carries this type through the engine."""
        import pyarrow as pa

        if self.name == "decimal":
            return pa.decimal128(self.precision, self.scale)
        return {
            "boolean": pa.bool_(),
            "int16": pa.int16(),
            "int32": pa.int32(),
            "int64": pa.int64(),
            "float32": pa.float32(),
            "float64": pa.float64(),
            "string": pa.string(),
            "binary": pa.binary(),
            "date": pa.date32(),
            "time": pa.time64("us"),
            "timestamp": pa.timestamp("us"),
            "timestamptz": pa.timestamp("us", tz="UTC"),
        }[self.name]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        def validate(value: Any) -> DataType:
            if isinstance(value, DataType):
                return value
            if not isinstance(value, str):
                raise ValueError(f"a type is written as text, such as int64 or decimal(19,4), not {value!r}")  # noqa: TRY004  # pydantic reports ValueError
            return cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        names = "|".join(name for name in TYPE_NAMES if name != "decimal")
        return {"type": "string", "pattern": rf"^({names}|decimal\(\d+, ?\d+\))$"}

"""Contracts: the columns, types, nullability and key of a dataset, written down and versioned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from datakit.model._base import Model
from datakit.model.types import DataType

if TYPE_CHECKING:
    import pyarrow as pa


class Column(Model):
    """One column of a contract."""

    name: Annotated[str, Field(min_length=1, max_length=128, description="The column's name in the source system")]
    type: Annotated[DataType, Field(description="Type in the contract: int64, decimal(19,4), string, timestamp …")]
    nullable: Annotated[bool, Field(description="Whether the column may hold NULL")] = True
    source_type: Annotated[str | None, Field(description="The type as the source system writes it")] = None


class Contract(Model):
    """What a dataset looks like: its columns in order, and its key."""

    dataset: Annotated[str, Field(description="CONNECTION.DATASET, such as airline.flights")]
    key: Annotated[tuple[str, ...], Field(description="Columns that identify a row; empty if there is no key")] = ()
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_consistent(self) -> Contract:
        names = [column.name for column in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"column {twice[0]!r} is listed twice")
        if missing := [name for name in self.key if name not in names]:
            raise ValueError(f"the key names {missing[0]!r}, which is not a column")
        return self

    def column(self, name: str) -> Column | None:
        """Return the column of that exact name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    def arrow_schema(self) -> pa.Schema:
        """Return the Arrow schema of the dataset's rows, in the order of the columns."""
        import pyarrow as pa

        return pa.schema([pa.field(column.name, column.type.arrow(), column.nullable) for column in self.columns])


class ChangeKind(StrEnum):
    """How one thing differs between two contracts."""

    ADDED = "added"
    REMOVED = "removed"
    WIDENED = "widened"
    CHANGED = "changed"
    RELAXED = "relaxed"
    TIGHTENED = "tightened"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: ``column`` is the column's name, or ``"key"`` for :attr:`ChangeKind.KEY`."""

    kind: ChangeKind
    column: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        match self.kind:
            case ChangeKind.ADDED:
                return f"+ {self.column}: {self.after}"
            case ChangeKind.REMOVED:
                return f"- {self.column}: {self.before}"
            case _:
                return f"~ {self.column}: {self.before} → {self.after} ({self.kind})"


def diff_contracts(before: Contract, after: Contract) -> tuple[Change, ...]:
    """List what changes from ``before`` to ``after``: removed, then changed, then added columns, then the key.

    A widened type is one that holds every earlier value (:meth:`DataType.holds`); relaxed means that NULL is new.
    """
    changes = list(_diff_columns(before.columns, after.columns))
    if before.key != after.key:
        changes.append(Change(ChangeKind.KEY, "key", ", ".join(before.key) or "none", ", ".join(after.key) or "none"))
    return tuple(changes)


def _diff_columns(before: Iterable[Column], after: Iterable[Column]) -> Iterable[Change]:
    old = {column.name: column for column in before}
    new = {column.name: column for column in after}
    for name, column in old.items():
        if name not in new:
            yield Change(ChangeKind.REMOVED, name, str(column.type), None)
    for name, was in old.items():
        if (now := new.get(name)) is None:
            continue
        if was.type != now.type:
            kind = ChangeKind.WIDENED if now.type.holds(was.type) else ChangeKind.CHANGED
            yield Change(kind, name, str(was.type), str(now.type))
        if was.nullable != now.nullable:
            kind = ChangeKind.RELAXED if now.nullable else ChangeKind.TIGHTENED
            yield Change(kind, name, _nullability(was), _nullability(now))
    for name, column in new.items():
        if name not in old:
            yield Change(ChangeKind.ADDED, name, None, str(column.type))


def _nullability(column: Column) -> str:
    return "null" if column.nullable else "not null"

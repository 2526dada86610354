"""Names of the warehouse: quoted, checked for length and collisions, and the names that datakit itself gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final

from datakit.errors import ContractError, NameCollision
from datakit.model.load import TableName

METADATA_PREFIX: Final = "_dk_"
"""Columns and tables whose name begins like this belong to datakit."""


def quote(identifier: str) -> str:
    """Quote one identifier as standard SQL does: in double quotes, which are doubled inside.

    :raises ContractError: it is empty or holds U+0000, which no SQL identifier can.
    """
    if not identifier or "\0" in identifier:
        raise ContractError("a name is empty or holds U+0000", subject=repr(identifier))
    return '"' + identifier.replace('"', '""') + '"'


def quote_all(identifiers: Iterable[str], prefix: str = "") -> str:
    """Quote identifiers and join them by commas, each behind ``prefix`` (``"s."``)."""
    return ", ".join(prefix + quote(identifier) for identifier in identifiers)


def qualified(table: TableName) -> str:
    """Return ``"schema"."table"``."""
    return f"{quote(table.schema)}.{quote(table.table)}"


def literal(text: str) -> str:
    """Quote text as a standard SQL literal, for the places that take no parameter (a column's default, a comment).

    :raises ContractError: it holds U+0000.
    """
    if "\0" in text:
        raise ContractError("a text holds U+0000", subject=repr(text))
    return "'" + text.replace("'", "''") + "'"


def staging_table(run_id: str, dataset: str, table: TableName) -> TableName:
    """Return the staging table of a run: in the target's schema, because a rename cannot change the schema."""
    digest = hashlib.sha256("\0".join((run_id, dataset, table.table)).encode()).hexdigest()[:16]
    return TableName(table.schema, f"_dk_staging_{digest}")


def check_names(names: Iterable[str], *, table: TableName, longest: int, fold: Callable[[str], str]) -> None:
    """Check that the warehouse can hold a table with columns of these names.

    :param longest: bytes of UTF-8 that the warehouse keeps of a name; what is longer it would cut in silence.
    :param fold: how the warehouse compares names (``str.lower`` where case does not count).
    :raises ContractError: a name is too long.
    :raises NameCollision: two names are one to the warehouse.
    """
    seen: dict[str, str] = {}
    for name in (table.schema, table.table, *(names := tuple(names))):
        if len(name.encode()) > longest:
            raise ContractError(
                f"the name {name!r} has {len(name.encode())} bytes; the warehouse keeps {longest}",
                subject=str(table),
                fix="give the column or table a shorter name in the source query",
            )
    for name in names:
        if (other := seen.setdefault(fold(name), name)) is not name:
            raise NameCollision(
                f"the columns {other!r} and {name!r} are one name to this warehouse",
                subject=str(table),
                fix="rename one of them in the source query, or choose another naming policy",
            )

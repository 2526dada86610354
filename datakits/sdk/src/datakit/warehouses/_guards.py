"""The checks that stand between staging and the table. The same for every warehouse that speaks SQL."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote()

from __future__ import annotations

from collections.abc import Callable, Mapping

from datakit.errors import InvalidKey, LoadInProgress, RowsLost
from datakit.model.load import LoadRequest, TableName, Versions
from datakit.model.types import DataType
from datakit.warehouses._identifiers import qualified, quote, quote_all
from datakit.warehouses._ledger import Execute, Ledger
from datakit.warehouses._values import describe_key


def check_base(ledger: Ledger, request: LoadRequest) -> None:
    """Refuse a load whose run began before the newest commit.

    :raises LoadInProgress: the newest load is not the request's base.
    """
    last = ledger.last(request.dataset, request.table)
    newest = last.sequence if last else 0
    if newest != request.base_sequence:
        raise LoadInProgress(
            f"load {newest} of the table is the newest, and this run began after load {request.base_sequence}",
            subject=str(request.table),
            cause=f"run {last.run_id} committed at {last.loaded_at:%Y-%m-%d %H:%M:%S} UTC" if last else None,
            fix="start a new run; it continues from the newest load",
        )


def check_complete(request: LoadRequest, staged: Mapping[int, int]) -> None:
    """Refuse a load with a slice that is not staged.

    :param staged: slice → rows.
    :raises RowsLost: a slice is missing.
    """
    if missing := sorted(set(range(1, request.slices + 1)) - set(staged)):
        raise RowsLost(
            f"{len(missing)} of {request.slices} slices are not staged, the first is slice {missing[0]}",
            subject=str(request.table),
            cause="it is still on its way, it failed, or it was never begun",
            fix=f"run what is missing under the same run id, --slice {missing[0]}/{request.slices} "
            f"--run-id {request.run_id}, and then this again; what is staged is kept",
        )


def staging_lost(request: LoadRequest, *, marked: int, held: int) -> RowsLost:
    """Build the error for a staging table that lost rows after they were staged."""
    return RowsLost(
        f"{marked} rows were staged, and staging holds {held}; it was emptied",
        subject=str(request.table),
        cause="the warehouse crashed and recovered in between, or somebody wrote to the staging table",
        fix="retry the run; every slice is read again",
    )


def check_key(execute: Execute, request: LoadRequest, table: TableName, what: str) -> None:
    """Refuse NULLs and duplicates in the key.

    :param what: what ``table`` is, for the message: ``the load`` or ``the table``.
    :raises InvalidKey: names the columns and one key value.
    """
    key = quote_all(request.key)
    shown = ", ".join(f"CAST({quote(name)} AS VARCHAR)" for name in request.key)
    is_null = " OR ".join(f"{quote(name)} IS NULL" for name in request.key)
    if null := execute(f"SELECT {shown} FROM {qualified(table)} WHERE {is_null} LIMIT 1", ()):
        raise _invalid_key(request, f"{what} has a NULL in its key", null[0])
    twice = execute(
        f"SELECT count(*), {shown} FROM {qualified(table)} GROUP BY {key} HAVING count(*) > 1 LIMIT 1",
        (),
    )
    if twice:
        raise _invalid_key(request, f"{what} has {twice[0][0]} rows of one key", twice[0][1:])


def keep_newest(
    execute: Execute,
    request: LoadRequest,
    versions: Versions,
    staging: TableName,
    native_type: Callable[[DataType], str],
) -> None:
    """Delete staged rows that a newer version of the same row has superseded; see :class:`Versions`.

    For a load whose key was found to have duplicates: it costs another pass over the keys. Rows are told apart by key
    and cursor, and not by ``rowid`` or ``ctid``, which may be the name of a column.

    :raises InvalidKey: rows of one key are left, or a key is NULL.
    """
    key, cursor, table = quote_all(request.key), quote(versions.column), qualified(staging)
    type_ = next(column.type for column in request.columns if column.name == versions.column)
    bound = versions.changed_after
    execute(
        f"DELETE FROM {table} WHERE ({key}, {cursor}) IN (SELECT {key}, {cursor} FROM ("
        f"SELECT {key}, {cursor}, rank() OVER (PARTITION BY {key} ORDER BY {cursor} DESC NULLS LAST) AS _dk_newest, "
        f"count(*) OVER (PARTITION BY {key}) AS _dk_all, count(*) OVER (PARTITION BY {key}, {cursor}) AS _dk_alike, "
        f"sum(CASE WHEN {cursor} > CAST($1 AS {native_type(type_)}) THEN 1 ELSE 0 END) OVER (PARTITION BY {key}) "
        f"AS _dk_changed FROM {table} "
        f"WHERE ({key}) IN (SELECT {key} FROM {table} GROUP BY {key} HAVING count(*) > 1)"
        ") AS versions WHERE _dk_newest > 1 AND _dk_alike = 1 AND _dk_changed >= _dk_all - 1)",
        (bound if isinstance(bound, bytes) else str(bound),),
    )
    check_key(execute, request, staging, "the load")


def _invalid_key(request: LoadRequest, problem: str, example: tuple[object, ...]) -> InvalidKey:
    return InvalidKey(
        f"{problem} ({', '.join(request.key)}): {describe_key(dict(zip(request.key, example, strict=True)))}",
        subject=str(request.table),
        cause="the columns do not identify a row of the source",
        fix="correct key in datakit.yaml, or the rows at the source",
    )

"""Schema changes: from the contract to the live source, and from there to the warehouse's table.

Both steps ask the same policy. ``evolve`` takes added and widened columns, ``freeze`` leaves added columns out,
``fail`` takes nothing; every other change is refused by all three, with the difference in the message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from datakit.errors import ContractError, ContractMismatch, SchemaChangeRefused
from datakit.ingest.bronze import METADATA_PREFIX
from datakit.model.contract import Change, ChangeKind, Column, Contract, diff_contracts
from datakit.model.load import TableName, TableState
from datakit.model.manifest import SchemaPolicy

_TAKEN: dict[SchemaPolicy, frozenset[ChangeKind]] = {
    SchemaPolicy.EVOLVE: frozenset({ChangeKind.ADDED, ChangeKind.WIDENED, ChangeKind.RELAXED, ChangeKind.TIGHTENED}),
    SchemaPolicy.FREEZE: frozenset({ChangeKind.ADDED, ChangeKind.RELAXED, ChangeKind.TIGHTENED}),
    SchemaPolicy.FAIL: frozenset(),
}


def agree(contract: Contract | None, live: Contract, policy: SchemaPolicy) -> tuple[Contract, tuple[Change, ...]]:
    """Decide which columns a run reads.

    :param contract: the committed one; None reads what is there.
    :returns: the contract to read by, with live types, and the changes that the policy let through.
    :raises ContractMismatch: the source changed in a way that the policy refuses.
    """
    if contract is None:
        return live, ()
    changes = diff_contracts(contract, live)
    _refuse(
        (change for change in changes if change.kind not in _TAKEN[policy]),
        ContractMismatch,
        what="the source no longer matches the contract",
        subject=contract.dataset,
        policy=policy,
        fix=f"look at it with `datakit contract check {contract.dataset}`; if it is right, accept it with "
        f"`datakit contract pull {contract.dataset}`, release, and rebuild the table in each warehouse with "
        f"`datakit run --full --dataset {contract.dataset} --warehouse NAME`",
    )
    if policy is SchemaPolicy.FREEZE:
        known = {column.name for column in contract.columns}
        live = live.model_copy(update={"columns": tuple(c for c in live.columns if c.name in known)})
    return live, changes


@dataclass(frozen=True, slots=True)
class TableChanges:
    """What a load does to the warehouse's table first.

    :ivar columns: the load's columns with the types that the table has or gets.
    :ivar left_out: columns that the table lacks and, under ``freeze``, does not get.
    """

    columns: tuple[Column, ...]
    add: tuple[Column, ...] = ()
    widen: tuple[Column, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fit_table(
    columns: tuple[Column, ...],
    key: tuple[str, ...],
    table: TableState | None,
    policy: SchemaPolicy,
    *,
    name: TableName,
    dataset: str,
    warehouse: str,
) -> TableChanges:
    """Decide how the warehouse's table changes to hold ``columns``.

    :param columns: the load's columns under the warehouse's names, ``_dk_row_hash`` included.
    :param table: the table as it is, None if there is none.
    :param name: the table's, for the message; dataset and warehouse likewise.
    :raises SchemaChangeRefused: the policy refuses what would be needed.
    """
    if table is None:
        return TableChanges(columns)
    existing = {column.name: column for column in (*table.columns, *table.metadata)}
    refused: list[Change] = [
        Change(ChangeKind.REMOVED, column.name, str(column.type), None)
        for column in table.columns
        if column.name not in {new.name for new in columns}
    ]
    kept: list[Column] = []
    add: list[Column] = []
    widen: list[Column] = []
    left_out: list[str] = []
    for column in columns:
        change: Change | None = None
        if (old := existing.get(column.name)) is None:
            change = Change(ChangeKind.ADDED, column.name, None, str(column.type))
        elif not old.type.holds(column.type):
            kind = ChangeKind.WIDENED if column.type.holds(old.type) else ChangeKind.CHANGED
            change = Change(kind, column.name, str(old.type), str(column.type))
        if change is None:
            # A table that is wider than the source (after a narrowing, or by hand) keeps its type; values are widened.
            kept.append(column.model_copy(update={"type": old.type}) if old else column)
        elif column.name.startswith(METADATA_PREFIX):  # ours, not the source's: no policy about the source applies
            add.append(column)
            kept.append(column)
        elif change.kind not in _TAKEN[policy]:
            refused.append(change)
        elif policy is SchemaPolicy.FREEZE:
            left_out.append(column.name)
        else:
            (add if change.kind is ChangeKind.ADDED else widen).append(column)
            kept.append(column)
    if key != table.key and table.key and key:
        refused.append(Change(ChangeKind.KEY, "key", ", ".join(table.key), ", ".join(key)))
    _refuse(
        refused,
        SchemaChangeRefused,
        what="the warehouse's table does not fit the source any more",
        subject=f"{warehouse}: {name}",
        policy=policy,
        fix=f"rebuild the table with `datakit run --full --dataset {dataset} --warehouse {warehouse}`"
        + (", or let it grow with schema_changes: evolve" if _evolving_helps(refused, policy) else ""),
    )
    notes = (
        *(f"+ {column.name}: {column.type}" for column in add),
        *(f"~ {c.name}: widened to {c.type}" for c in widen),
    )
    return TableChanges(tuple(kept), tuple(add), tuple(widen), tuple(left_out), notes)


def _evolving_helps(refused: Iterable[Change], policy: SchemaPolicy) -> bool:
    return policy is not SchemaPolicy.EVOLVE and not _beyond_policies(refused)


def _beyond_policies(changes: Iterable[Change]) -> bool:
    """Whether one of them is a change that no policy takes."""
    return any(change.kind not in _TAKEN[SchemaPolicy.EVOLVE] for change in changes)


def _refuse(
    changes: Iterable[Change], error: type[ContractError], *, what: str, subject: str, policy: SchemaPolicy, fix: str
) -> None:
    if changes := tuple(changes):
        raise error(
            "\n".join([f"{what}:", *(f"    {change}" for change in changes)]),
            subject=subject,
            cause="no policy for schema changes takes a removed column, another type or another key"
            if _beyond_policies(changes)
            else f"the policy for schema changes is {policy}",
            fix=fix,
        )

"""Rules about source datakits: their adapters, SQL files, contracts, keys, cursors and slices."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points

from datakit.cli._rules._select import why_not_one_select
from datakit.errors import (
    ContractMismatch,
    DatakitError,
    InvalidCursor,
    InvalidFile,
    InvalidKey,
    NameCollision,
    UnknownName,
)
from datakit.model.contract import Column, Contract
from datakit.model.manifest import Dataset, SourceDatakit
from datakit.model.project import Found, LoadedSource, Project

_TIMES = frozenset({"date", "timestamp", "timestamptz"})


def source_problems(project: Project) -> Iterator[DatakitError]:
    """Yield what is wrong with the source datakits."""
    adapters = {point.name for point in entry_points(group="datakit.sources")}
    first: dict[str, Found[SourceDatakit]] = {}
    for source, found in _sources(project):
        if source.manifest.system not in adapters:
            yield UnknownName.of("source system type", source.manifest.system, adapters, where=found.where("system"))
        for name, dataset in source.manifest.datasets.items():
            reference = f"{source.manifest.connection}.{name}"
            if reference in first:
                yield NameCollision(
                    f"the dataset {reference!r} is defined twice",
                    subject=found.where("datasets", name),
                    cause=f"the other one is in {first[reference].path}",
                    fix="a dataset is defined once: keep one, or give one of them another name",
                )
            first.setdefault(reference, found)
            yield from _dataset_problems(source, found, name, dataset)
        yield from _orphans(source)


def source_notes(project: Project) -> Iterator[str]:
    """Yield datasets that have no contract yet."""
    for source, found in _sources(project):
        for name in source.manifest.datasets:
            if name not in source.contracts:
                reference = f"{source.manifest.connection}.{name}"
                yield (
                    f"{found.where('datasets', name)}: {reference} has no contract yet, its columns were not checked: "
                    f"datakit contract pull {reference}"
                )


def _sources(project: Project) -> Iterator[tuple[LoadedSource, Found[SourceDatakit]]]:
    for name, source in project.sources().items():
        yield source, project.datakit_files[name]  # type: ignore[misc]  # a source's file holds a source


def _dataset_problems(
    source: LoadedSource, found: Found[SourceDatakit], name: str, dataset: Dataset
) -> Iterator[DatakitError]:
    if dataset.sql is not None and (problem := _sql_problem(source, dataset.sql, found.where("datasets", name, "sql"))):
        yield problem
    try:
        contract = source.contracts.get(name)
    except InvalidFile as broken:
        yield broken
        return
    if contract is None:
        return
    reference = f"{source.manifest.connection}.{name}"
    path = source.contract_path(name)
    if contract.dataset != reference:
        yield ContractMismatch(
            f"the contract is for {contract.dataset!r}, but its file belongs to {reference!r}",
            subject=f"{path}:1:1",
            fix=f"set dataset: {reference}, or pull it again: datakit contract pull {reference}",
        )
    yield from _key_problems(dataset, contract, found.where("datasets", name, "key"), reference)
    yield from _cursor_problems(dataset, contract, found, name)
    yield from _slice_problems(dataset, contract, found, name)


def _sql_problem(source: LoadedSource, sql: str, where: str) -> DatakitError | None:
    path = source.folder / sql
    if not path.resolve().is_relative_to(source.folder.resolve()):
        return InvalidFile(
            f"{sql!r} lies outside the datakit",
            subject=where,
            fix="put it into the datakit's folder, such as sql/NAME.sql",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return UnknownName.of("SQL file", sql, _sql_files(source), where=where)
    except (OSError, UnicodeDecodeError) as error:
        return InvalidFile(f"the SQL file cannot be read: {error}", subject=str(path))
    if why := why_not_one_select(text):
        return InvalidFile(
            f"the file is not one SELECT: {why}", subject=f"{path}:1:1", fix="write one SELECT … or WITH … SELECT"
        )
    return None


def _sql_files(source: LoadedSource) -> list[str]:
    return [path.relative_to(source.folder).as_posix() for path in source.folder.rglob("*.sql")]


def _key_problems(dataset: Dataset, contract: Contract, where: str, reference: str) -> Iterator[DatakitError]:
    for name in dataset.key:
        column = contract.column(name)
        if column is None:
            yield _no_column(name, contract, where)
        elif column.nullable:
            yield InvalidKey(
                f"the key column {name!r} may be NULL",
                subject=where,
                cause="the contract says so; a row without a key cannot be found again",
                fix="choose columns that are NOT NULL in the source",
            )
    if (
        dataset.key
        and contract.key
        and dataset.key != contract.key
        and all(contract.column(name) for name in dataset.key)
    ):
        yield ContractMismatch(
            f"the key is {', '.join(dataset.key)} here, but {', '.join(contract.key)} in the contract",
            subject=where,
            fix=f"make them agree, or pull the contract again: datakit contract pull {reference}",
        )


def _cursor_problems(
    dataset: Dataset, contract: Contract, found: Found[SourceDatakit], name: str
) -> Iterator[DatakitError]:
    if dataset.cursor is None:
        return
    where = found.where("datasets", name, "cursor", "column")
    column = contract.column(dataset.cursor.column)
    if column is None:
        yield _no_column(dataset.cursor.column, contract, where)
        return
    if column.nullable:
        yield InvalidCursor(
            f"the cursor column {column.name!r} may be NULL",
            subject=where,
            cause="the contract says so; rows with NULL would never be loaded",
            fix="choose a column that is NOT NULL in the source",
        )
    if not column.type.is_ordered:
        yield InvalidCursor(
            f"the cursor column {column.name!r} is {column.type}, on which later does not mean greater",
            subject=where,
            fix=_candidates(contract, "choose"),
        )
    elif dataset.cursor.lag and column.type.name not in _TIMES:
        yield InvalidCursor(
            f"lag is for times, but the cursor column {column.name!r} is {column.type}",
            subject=found.where("datasets", name, "cursor", "lag"),
            fix="remove lag, or choose a time column as the cursor",
        )


def _slice_problems(
    dataset: Dataset, contract: Contract, found: Found[SourceDatakit], name: str
) -> Iterator[DatakitError]:
    from datakit.sources.notation import can_slice

    if dataset.slices is None:
        return
    where = found.where("datasets", name, "slices", "column")
    column = contract.column(dataset.slices.column)
    if column is None:
        yield _no_column(dataset.slices.column, contract, where)
    elif column.nullable or not can_slice(column.type):
        reason = "may be NULL" if column.nullable else f"is {column.type}, whose range cannot be cut"
        yield InvalidFile(
            f"the slice column {column.name!r} {reason}",
            subject=where,
            fix="choose a whole-number or time column that is NOT NULL, best the leading key column",
        )


def _orphans(source: LoadedSource) -> Iterator[DatakitError]:
    for name in source.contracts:
        if name not in source.manifest.datasets:
            yield UnknownName.of("dataset", name, source.manifest.datasets, where=f"{source.contract_path(name)}:1:1")


def _no_column(name: str, contract: Contract, where: str) -> UnknownName:
    return UnknownName.of(
        f"column in the contract of {contract.dataset} called", name, _names(contract.columns), where=where
    )


def _names(columns: tuple[Column, ...]) -> list[str]:
    return [column.name for column in columns]


def _candidates(contract: Contract, verb: str) -> str | None:
    fit = [column.name for column in contract.columns if column.type.is_ordered and not column.nullable]
    return f"{verb} one of: {', '.join(fit)}" if fit else None

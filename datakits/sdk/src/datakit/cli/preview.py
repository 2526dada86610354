"""``datakit preview``: the first rows of a dataset, live from its source."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from datakit.cli._options import Dataset, Environment, Json
from datakit.cli._output import out, print_json

if TYPE_CHECKING:
    from datakit.model.contract import Contract
    from datakit.model.manifest import Dataset as DatasetModel
    from datakit.sources import Source

_UNBOUNDED: Final = 1_000_000


def preview(
    dataset: Dataset,
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, max=10_000, help="How many.")] = 10,
    environment: Environment = None,
    json_: Json = False,
) -> None:
    """Show rows of a dataset as its source has them now."""
    from datakit.cli._live import opened
    from datakit.model.project import Project

    project = Project.find()
    source, _, definition, _ = project.dataset(dataset)
    with opened(project, source, environment) as live:
        contract = live.describe(dataset, definition)
        found = _first_rows(live, definition, contract, rows)
    if json_:
        columns = [column.model_dump(mode="json", exclude_none=True) for column in contract.columns]
        print_json({"dataset": dataset, "columns": columns, "rows": [_plain(row) for row in found]})
    else:
        _print_table(dataset, contract, found)


def _first_rows(source: Source, dataset: DatasetModel, contract: Contract, rows: int) -> list[dict[str, Any]]:
    from datakit.model.load import Slice

    stream = source.read(dataset, contract, None, Slice())
    try:
        return list(islice((row for batch in stream for row in batch.to_pylist()), rows))
    finally:
        stream.close()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}


def _print_table(dataset: str, contract: Contract, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    numeric = ("int", "float", "decimal")
    table = Table(title=f"{dataset}, {len(rows)} rows", title_justify="left", row_styles=["", "dim"])
    for column in contract.columns:
        justify = "right" if column.type.name.startswith(numeric) else "left"
        header = Text.assemble(column.name, ("\n" + str(column.type), "dim"))
        table.add_column(header, justify=justify, overflow="ellipsis", no_wrap=True)  # type: ignore[arg-type]  # one of two literals
    for row in rows:
        table.add_row(*(_cell(row[column.name]) for column in contract.columns))
    console = out()
    width = console.measure(table, options=console.options.update(max_width=_UNBOUNDED)).maximum
    if not console.is_terminal:  # in a pipe the table is as wide as it has to be
        console.width = max(console.width, width)
    if width <= console.width:
        console.print(table)
    else:
        _print_records(dataset, contract, rows)


def _print_records(dataset: str, contract: Contract, rows: list[dict[str, Any]]) -> None:
    """Print each row down instead of across, where the terminal is too narrow for a table."""
    from rich.table import Table
    from rich.text import Text

    for number, row in enumerate(rows, start=1):
        record = Table.grid(padding=(0, 2))
        for column in contract.columns:
            record.add_row(
                Text(column.name, style="bold"), Text(str(column.type), style="dim"), _cell(row[column.name])
            )
        out().print(Text(f"{dataset}, row {number} of {len(rows)}", style="italic"))
        out().print(record)


def _cell(value: Any) -> Any:
    from rich.text import Text

    match value:
        case None:
            return Text("NULL", style="dim italic")
        case bytes():
            return Text(f"0x{value.hex()}")
        case bool():
            return Text("true" if value else "false")
        case _:
            # control characters of the data must not reach the terminal
            return Text("".join(char if char.isprintable() else "·" for char in str(value)))

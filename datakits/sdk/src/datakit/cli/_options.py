"""Options that several commands share, and their completion from the tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datakit.model.project import Project


def _completing(names: Callable[[Project], Iterable[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        from datakit.errors import DatakitError
        from datakit.model.project import Project

        try:
            return sorted(name for name in names(Project.find()) if name.startswith(incomplete))
        except DatakitError:  # a broken tree completes nothing; the command will say why
            return []

    return complete


complete_datakit = _completing(lambda project: project.datakit_files)
complete_dataset = _completing(lambda project: project.datasets())
complete_warehouse = _completing(lambda project: project.warehouses())
complete_environment = _completing(lambda project: project.environments())

Environment = Annotated[
    str | None,
    typer.Option(
        "--environment",
        "-e",
        metavar="NAME",
        autocompletion=complete_environment,
        help="Where sources and warehouses are. [dim]Default: DATAKIT_ENVIRONMENT[/dim]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", autocompletion=complete_dataset, help="CONNECTION.DATASET, such as airline.flights."
    ),
]
Datasets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[DATASET]...", autocompletion=complete_dataset, help="CONNECTION.DATASET; none means all in the tree."
    ),
]

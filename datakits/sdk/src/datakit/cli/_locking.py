"""What the commands of locks share: the tree, its repository, its registries, and how people see pins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from datakit.cli._options import complete_environment
from datakit.cli._output import out
from datakit.errors import ConfigurationError

if TYPE_CHECKING:
    from datakit.release.git import GitRepository
    from datakit.release.registry import Registry

_WIDEST: Final = 4000

Name = Annotated[
    str, typer.Argument(metavar="ENVIRONMENT", autocompletion=complete_environment, help="Whose lock it is.")
]
Why = Annotated[
    str | None, typer.Option("--why", "-m", metavar="TEXT", help="Why, in one line; it stays in the lock and in Git.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the change and the commit's message; write nothing.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no registry.")]
Reports = Annotated[
    Path | None,
    typer.Option("--reports", metavar="FOLDER", help="Run reports, as DATAKIT_REPORT leaves them, in any depth."),
]


def registries() -> Callable[[str], Registry]:
    """Return what opens a registry, each once."""
    from datakit.release import registry

    return lru_cache(maxsize=None)(lambda reference: registry.open_registry(reference))


def reason(text: str | None) -> str | None:
    """Return a reason as it is kept: one line.

    :raises ConfigurationError: it is no text that one line of a file can hold.
    """
    if text is None:
        return None
    line = re.sub(r"\s+", " ", text).strip()
    if not line.isprintable() or len(line) > 500:
        raise ConfigurationError(
            "the reason cannot be kept", subject="--why", fix="write one line of at most 500 printable characters"
        )
    return line or None


def repository_around(folder: Path) -> GitRepository | None:
    """Return the repository around a folder; None where there is none."""
    from datakit.release.git import GitRepository

    try:
        return GitRepository.around(folder)
    except ConfigurationError:
        return None


def print_table(headings: Iterable[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table; in a pipe as wide as it is, so that nothing is cut off."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    for line in lines:
        table.add_row(*map(Text, line))
    console = out()
    if not console.is_terminal:
        console.width = _WIDEST
    console.print(table)


def age(length: timedelta | None) -> str:
    """Return a length of time in one unit, as a table shows it."""
    if length is None:
        return "?"
    seconds = max(0, round(length.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"

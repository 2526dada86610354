"""What the groups of ``datakit-lab``'s commands share."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from datakit_lab.errors import LabError

if TYPE_CHECKING:
    from rich.console import Console


class DataSet(StrEnum):
    """What the SQL Server double can be filled with."""

    AIRLINE = "airline"
    TPCH = "tpch"
    NASTY = "nasty"


Life = Annotated[str, typer.Option("--ticket-life", help="Life of a ticket: 30s, 15m, 10h.")]


def duration(text: str) -> timedelta:
    """Read ``30s``, ``15m``, ``10h``, ``2d``.

    :raises LabError: it is none.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text[:-1], text[-1:]
    if not (number.isdecimal() and int(number) and unit in units):
        raise LabError(f"{text!r} is no duration", fix="write a number and s, m, h or d: 30s, 15m, 10h")
    return timedelta(seconds=int(number) * units[unit])


def data_sets(text: str) -> list[str]:
    """Read the names of data sets, separated by commas.

    :raises LabError: there is none of a name.
    """
    known = [each.value for each in DataSet]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise LabError(f"there is no data set {name!r}", fix=f"choose of: {', '.join(known)}")
    return names


def console() -> Console:
    """Return what prints for people."""
    from rich.console import Console

    return Console(highlight=False)


def until_interrupted(lines: Iterable[str]) -> None:
    """Print lines, and wait for Ctrl-C."""
    try:
        for line in [*lines, "Ctrl-C ends it."]:
            typer.echo(line)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        typer.echo("")


def end_on_sigterm() -> None:
    """Let SIGTERM end a foreground command as Ctrl-C does, with everything cleaned up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)

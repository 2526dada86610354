"""Outcomes as tables: for the terminal, and for ``benchmarks/README.md`` between its markers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Outcome

BEGIN: Final = "<!-- results -->"
END: Final = "<!-- /results -->"


@dataclass(slots=True)
class Rounds:
    """What one contender did with one table.

    :ivar error: why it was stopped, if it was.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    error: str = ""

    @property
    def seconds(self) -> float:
        """The median."""
        return median(outcome.seconds for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table.

    :ivar label: one text per leading column of its table.
    :ivar reference: what the rounds are compared with; None is no comparison.
    """

    label: tuple[str, ...]
    rounds: Rounds
    reference: Rounds | None = None

    def cells(self) -> list[str]:
        """Return the texts of the row."""
        outcomes = self.rounds.outcomes
        if not outcomes:
            return [*self.label, "failed", *[""] * 5]
        seconds = self.rounds.seconds
        times = sorted(outcome.seconds for outcome in outcomes)
        compared = self.reference is not None and self.reference.outcomes
        return [
            *self.label,
            f"{seconds:.2f}",
            f"{times[0]:.2f}",
            f"{times[-1]:.2f}",
            f"{outcomes[0].rows / seconds:,.0f}",
            f"{max(outcome.peak_bytes for outcome in outcomes) / 1e6:,.0f}",
            f"{seconds / self.reference.seconds:.2f}" if self.reference and compared else "",
        ]


@dataclass(frozen=True, slots=True)
class Section:
    """One table.

    :ivar leading: the names of the columns before the figures.
    :ivar compared: the heading of the last column: what the median is divided by.
    """

    title: str
    leading: tuple[str, ...]
    compared: str
    lines: list[Line] = field(default_factory=list)

    @property
    def headings(self) -> list[str]:
        """The names of all columns."""
        return [*self.leading, "seconds", "fastest", "slowest", "rows/s", "peak MB", self.compared]


def show(sections: Sequence[Section], console: Console) -> None:
    """Print the tables."""
    for section in sections:
        table = Table(title=section.title, title_justify="left")
        for number, heading in enumerate(section.headings):
            table.add_column(heading, justify="left" if number < len(section.leading) else "right")
        for line in section.lines:
            table.add_row(*line.cells())
        console.print(table)


def markdown(sections: Sequence[Section], facts: Sequence[str]) -> str:
    """Return the tables and the facts about the run as Markdown."""
    parts = ["\n".join(f"- {fact}" for fact in facts)]
    for section in sections:
        marks = [":--" if number < len(section.leading) else "--:" for number in range(len(section.headings))]
        rows = [section.headings, marks, *(line.cells() for line in section.lines)]
        parts.append(f"### {section.title}")
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts)


def show_rows(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """Print a table whose first column is words and the others figures."""
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def rows_as_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], facts: Sequence[str]) -> str:
    """Return such a table and the facts about the run as Markdown."""
    marks = ["--:" if number else ":--" for number in range(len(headings))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (headings, marks, *rows))
    return "\n".join(f"- {fact}" for fact in facts) + f"\n\n{table}"


def write(path: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put the text between the page's markers.

    :raises ValueError: the page has no markers.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"{path} has no {' … '.join(marks)}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")

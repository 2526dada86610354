"""Run the benchmarks: ``python -m benchmarks.run``, or ``make bench``.

One machine, one run: the same prepared table, served by the SQL Server double from memory, loaded in turn by each
contender in a fresh process into an empty target. Rounds are interleaved, so that a slow minute of the machine hits
all of them; the tables show medians.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from datakit_lab.postgres import Postgres
from rich.console import Console

from benchmarks import machine, peers, results
from benchmarks.measure import Contender, ContenderFailed, measure
from benchmarks.results import Line, Rounds, Section
from benchmarks.server import Double

_WARM_UP: Final = "lineitem_warm_up"
_WARM_UP_ROWS: Final = 1_000
_TARGETS: Final = ("duckdb", "postgres")
_PAGE_WIDTH: Final = 120
_PAGE: Final = Path(__file__).with_name("README.md")
_PACKAGES: Final = ("datakit", "mssql-python", "mssql-python-odbc", "pyarrow", "duckdb", "pgpq", "psycopg")


@dataclass(slots=True)
class Race:
    """One contender and the table it loads."""

    contender: Contender
    table: str
    count: int
    rounds: Rounds = field(default_factory=Rounds)

    @property
    def name(self) -> str:
        """For people who watch."""
        connections = self.contender.options.get("connections", 1)
        return f"{self.contender.key}, {self.table}{f', {connections} connections' if connections > 1 else ''}"


@dataclass(slots=True)
class Programme:
    """All races of a run, and the tables that show them.

    :ivar rows: the rows of the main race; ``sizes`` those that ours runs at, ``count`` the rounds of each race.
    """

    rows: int
    sizes: Sequence[int]
    count: int
    only: str
    races: list[Race] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def plan(self) -> None:
        """Decide who races whom."""
        into = ("contender", "into")
        main = Section(f"{self.rows:,} rows of 16 columns, one connection", into, "time ÷ ours")
        for label, packet_size in (("32 KB packets", 32767), ("4 KB packets", 4096)):
            drain = Contender(f"socket drain, {label}", "drain", None, {"packet_size": packet_size})
            self._show(main, drain, self.rows, (drain.name, "nowhere"))
        driver = Contender("driver alone", "read", None)
        self._show(main, driver, self.rows, (driver.name, "nowhere"))
        for target in _TARGETS:
            reference = self._race(_ours(target), self.rows)
            for contender in (_ours(target), *_others(target)):
                self._show(main, contender, self.rows, (contender.name, target), reference)
        sizes = Section("Ours, by rows, one connection", ("rows", "into"), "")
        connections = Section(f"Ours, {self.rows:,} rows, by connections", ("connections", "into"), "time ÷ that of 1")
        for target in _TARGETS:
            for size in sorted({*self.sizes, self.rows}):
                self._show(sizes, _ours(target), size, (f"{size:,}", target))
            reference = self._race(_ours(target), self.rows)
            for number in (1, 2):
                self._show(connections, _ours(target, number), self.rows, (str(number), target), reference)
        self.sections = [section for section in (main, sizes, connections) if section.lines]

    def tables(self) -> dict[str, int]:
        """Return the tables that the double has to serve, and their rows."""
        return {_WARM_UP: _WARM_UP_ROWS} | {race.table: int(race.table.rpartition("_")[2]) for race in self.races}

    def _show(
        self, section: Section, contender: Contender, rows: int, label: tuple[str, ...], reference: Rounds | None = None
    ) -> None:
        if (rounds := self._race(contender, rows)) is not None:
            section.lines.append(Line(label, rounds, reference))

    def _race(self, contender: Contender, rows: int) -> Rounds | None:
        """Return the rounds of that contender with a table of that size; each pair races once, wherever it is shown."""
        if not re.search(self.only, contender.key):
            return None
        table = f"lineitem_{rows}"
        for race in self.races:
            if race.contender == contender and race.table == table:
                return race.rounds
        # the largest table shows whether memory grows, which one round tells as well as three
        self.races.append(Race(contender, table, 1 if rows > self.rows else self.count))
        return self.races[-1].rounds


def _ours(target: str, connections: int = 1) -> Contender:
    return Contender("ours", "ours", target, {"connections": connections})


def _others(target: str) -> list[Contender]:
    contenders = [Contender("hand-written", "handwritten", target)]
    for backend in ("arrow_stream", "connectorx", "pyarrow"):
        name = backend if backend == "pyarrow" else f"connectorx, {'stream' if backend == 'arrow_stream' else 'whole'}"
        options = {"backend": backend, "driver": peers.odbc_driver()}
        contenders.append(Contender(f"dlt ({name})", "dlt_load", target, options, packages="peers"))
    return contenders


def run(programme: Programme, console: Console) -> None:
    """Run every race, in interleaved rounds after a small one that does not count."""
    with (
        tempfile.TemporaryDirectory(prefix="datakit-bench-") as scratch,
        Postgres() as postgres,
        Double(programme.tables(), Path(scratch)) as double,
    ):
        for number in range(max(race.count for race in programme.races) + 1):
            # each round begins with another contender, so that nobody always follows the same one
            races = programme.races[number:] + programme.races[:number]
            for race in races:
                if race.rounds.error or number > race.count:
                    continue
                table = race.table if number else _WARM_UP
                try:
                    outcome = measure(race.contender, table, double, postgres, Path(scratch))
                except ContenderFailed as failure:
                    race.rounds.error = str(failure)
                    console.print(f"{race.name} failed: {failure}", highlight=False, markup=False)
                    continue
                if number:
                    race.rounds.outcomes.append(outcome)
                    said = f"{outcome.seconds:.2f} s, {outcome.peak_bytes / 1e6:,.0f} MB"
                    console.print(f"round {number}: {race.name}: {said}", highlight=False, markup=False)


def _facts(arguments: Sequence[str], count: int) -> list[str]:
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    pins = [line for line in peers.PINS.read_text().splitlines() if line and not line.startswith("#")]
    command = " ".join(["make bench", *(["ARGS='", *arguments, "'"] if arguments else [])])
    return [
        f"Run on {machine.now()} by `{command}`; medians of {count} rounds.",
        f"Machine: {machine.described()}; servers and contenders share it.",
        f"Python {platform.python_version()}; ours and hand-written: {versions}.",
        f"Theirs: {', '.join(pins)}.",
    ]


def main() -> int:
    """Run what the command line asks for; 1 if a contender failed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 rows, one round; does not change README.md")
    parser.add_argument("--rows", type=int, help="rows of the main race (default 1,000,000)")
    parser.add_argument("--rounds", type=int, help="rounds that count (default 3)")
    parser.add_argument("--only", default="", metavar="REGEX", help="contenders, such as 'ours|hand'")
    chosen = parser.parse_args()
    rows = chosen.rows or (20_000 if chosen.quick else 1_000_000)
    sizes = (rows // 10, rows) if chosen.quick else (rows // 10, rows, rows * 10)
    programme = Programme(rows, sizes, chosen.rounds or (1 if chosen.quick else 3), chosen.only)
    programme.plan()
    if not programme.races:
        parser.error(f"no contender matches {chosen.only!r}")
    console = Console(stderr=True)
    run(programme, console)
    results.show(programme.sections, Console(width=None if sys.stdout.isatty() else _PAGE_WIDTH))
    if not (chosen.quick or chosen.only or chosen.rows):
        results.write(_PAGE, results.markdown(programme.sections, _facts(sys.argv[1:], programme.count)))
        console.print(f"written to {_PAGE}")
    return int(any(race.rounds.error for race in programme.races))


if __name__ == "__main__":
    sys.exit(main())

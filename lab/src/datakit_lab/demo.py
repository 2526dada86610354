"""``make demo``: SQL Server tables, by Kerberos, into two warehouses; the source lives on, and both follow.

Every credential comes from the vault, through the sidecar, and is rotated while the first load runs. The demo does what
a person would, with the commands that a person would use, and shows them. Then it proves that source and warehouses are
equal, without using the product to do so (:mod:`datakit_lab.compare`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from datakit_lab import compare
from datakit_lab.sidecar import readiness
from datakit_lab.state import LabState

_ROOT: Final = Path.cwd()
_STATE: Final = LabState(_ROOT / ".lab")
_MARKETING: Final = _STATE.directory / "marketing.duckdb"
_WAREHOUSE_SECRET: Final = Path("finance-db/password")
_FOLLOW_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class _Target:
    """Where one dataset lands."""

    dataset: str
    warehouse: str
    source: str
    table: str


_TARGETS: Final = (
    _Target("airline.flights", "finance", "ops.Flights", "bronze_airline.flights"),
    _Target("airline.weather", "finance", "ops.Weather", "bronze_airline.weather"),
    _Target("airline.planes", "finance", "ops.Planes", "bronze_airline.planes"),
    _Target("airline.airports", "finance", "ops.Airports", "bronze_airline.airports"),
    _Target("airline.airlines", "finance", "ops.Airlines", "bronze_airline.airlines"),
    _Target("airline.flights", "marketing", "ops.Flights", "airline.flights"),
    _Target("airline.airports", "marketing", "ops.Airports", "reference.airports"),
    _Target("airline.airlines", "marketing", "ops.Airlines", "reference.airlines"),
)


class Demo:
    """The story, step by step; every step is a public method and prints what it does."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._environment = dict(os.environ)
        self._told = 0

    def bring_the_lab_up(self) -> None:
        """Start every server, with January to November in the source, and the sidecar."""
        self._title("A corporate network in a box: KDC, vault, SQL Server double, PostgreSQL, and the sidecar")
        for leftover in _STATE.directory.glob(f"{_MARKETING.name}*"):
            leftover.unlink()
        self._told = len(self._audit_lines())  # an earlier lab's log goes on
        self._command("datakit-lab", "up", "--data", "airline")
        record = _STATE.read()
        if record is None:
            raise SystemExit("the lab went away; its logs are in .lab/logs")
        self._environment |= record.environment | {"DATAKIT_ENVIRONMENT": "local"}

    def show_the_credentials(self) -> None:
        """Show what the sidecar made of the vault's keytab and password: service tickets, and a file in memory."""
        self._title(
            "The sidecar took a keytab and a password from the vault; a datakit sees tickets and a file, in memory"
        )
        self._command("klist")
        self._command("ls", "-l", f"{_STATE.secrets.relative_to(_ROOT)}/{_WAREHOUSE_SECRET.parent}/")
        self._tell_audit()

    def load(self, title: str) -> list[dict[str, Any]]:
        """Run every dataset of both warehouses; return the run reports."""
        self._title(title)
        return [*self._load("finance"), *self._load("marketing")]

    def load_and_rotate(self, title: str) -> list[dict[str, Any]]:
        """Load as :meth:`load` does; while the first rows move, rotate the keytab and the warehouse's password."""
        self._title(title)
        before = self._published()
        reports = self._load("finance", meanwhile=self._rotate)
        deadline = time.monotonic() + _FOLLOW_SECONDS
        while not all(now != then for now, then in zip(self._published(), before, strict=True)):
            if time.monotonic() > deadline:
                raise SystemExit("the sidecar did not follow the rotation; its log is .lab/logs/sidecar.log")
            time.sleep(0.1)
        reports += self._load("marketing")
        self._say("\nWhat the sidecar did meanwhile, from its audit log:")
        self._tell_audit()
        self._command("datakit-lab", "status")
        return reports

    def let_the_source_live(self) -> None:
        """December arrives, delays are corrected, a column is added."""
        self._title("Life at the source: December arrives, delays are corrected, a column is added")
        self._command("datakit-lab", "mutate")

    def show(self, title: str, reports: list[dict[str, Any]]) -> None:
        """Print the run reports as a table."""
        table = Table(title=title, title_justify="left")
        for column in ("dataset", "warehouse", "table", "mode", "datakit", "source datakit"):
            table.add_column(column, no_wrap=column in {"dataset", "warehouse"})
        for column in ("rows", "seconds", "rows/s"):
            table.add_column(column, justify="right")
        for report in reports:
            table.add_row(
                report["dataset"],
                report["warehouse"],
                report["table"],
                report["mode"],
                report["datakit"],
                report["source_datakit"],
                f"{report['rows_written']:,}",
                f"{report['seconds']:.2f}",
                f"{report['rows_per_second'] or 0:,}",
            )
        self._console.print(table)
        for change in sorted({change for report in reports for change in report["schema_changes"]}):
            self._console.print(f"  schema change taken by the policy: [bold]{change}[/bold]", highlight=False)

    def verify_the_audit_log(self) -> None:
        """Check the chain of hashes that holds the audit log together."""
        self._title("Proof: nobody changed the audit log")
        self._command("datakit-sidecar", "verify-audit", str(_STATE.audit.relative_to(_ROOT)))

    def prove_equality(self) -> None:
        """Compare count and digest of every table in source and warehouses.

        :raises SystemExit: a table differs.
        """
        self._title("Proof: source and warehouses are equal")
        table = Table("source", "warehouse", "columns", "rows", "digest", "")
        password = (_STATE.secrets / _WAREHOUSE_SECRET).read_text(encoding="utf-8")
        dsn = f"postgresql://finance:{password}@localhost:{self._port('postgres')}/finance"
        sources: dict[str, compare.Fingerprint] = {}
        wrong = 0
        # The driver reads the ticket where this variable of its own process says.
        os.environ.update({name: self._environment[name] for name in ("KRB5_CONFIG", "KRB5CCNAME")})
        for target in _TARGETS:
            if target.source not in sources:
                sources[target.source] = compare.fingerprint(
                    compare.read_sqlserver(
                        f"Server=tcp:localhost,{self._port('sqlserver')};Database=AirlineOps;Trusted_Connection=yes;"
                        "Encrypt=yes;TrustServerCertificate=yes",
                        target.source,
                    )
                )
            landed = (
                compare.read_postgres(dsn, target.table)
                if target.warehouse == "finance"
                else compare.read_duckdb(str(_MARKETING), target.table)
            )
            source, warehouse = sources[target.source], compare.fingerprint(landed)
            equal = source == warehouse
            wrong += not equal
            table.add_row(
                target.source,
                f"{target.warehouse}: {target.table}",
                str(len(warehouse.columns)),
                f"{warehouse.rows:,}" if equal else f"{source.rows:,} ≠ {warehouse.rows:,}",
                warehouse.digest[-12:] if equal else f"{source.digest[-12:]} ≠ {warehouse.digest[-12:]}",
                "[green]equal[/green]" if equal else "[red]DIFFERENT[/red]",
            )
        self._console.print(table)
        if wrong:
            raise SystemExit(f"{wrong} tables differ")

    def clean_up(self) -> None:
        """Take the lab down; its logs stay."""
        self._title("Cleaning up")
        self._command("datakit-lab", "down")
        _MARKETING.unlink(missing_ok=True)

    def say_how_to_look_around(self, *, kept: bool) -> None:
        """Say what a person may do next."""
        if not kept:
            self._say(f"\nDone in {time.monotonic() - self._began:.0f} s. Look around yourself: make demo KEEP=1")
            return
        self._say(
            f"\nDone in {time.monotonic() - self._began:.0f} s. The lab is still up; look around:\n\n"
            "    . .venv/bin/activate\n"
            '    eval "$(datakit-lab env)" && export DATAKIT_ENVIRONMENT=local\n'
            "    datakit preview airline.flights\n"
            "    datakit run --warehouse finance\n"
            "    datakit doctor\n"
            "    datakit-lab status\n"
            "    datakit-sidecar doctor --config .lab/sidecar.yaml\n"
            "    datakit-lab rotate keytab; datakit-lab rotate password\n"
            "    tail -f .lab/logs/audit.jsonl\n\n"
            "and when you have seen enough: datakit-lab down"
        )

    def _load(self, warehouse: str, meanwhile: Callable[[], None] | None = None) -> list[dict[str, Any]]:
        """Run every dataset of a warehouse; once the first rows move, do something else ``meanwhile``."""
        command = ["datakit", "run", "--warehouse", warehouse, "--json"]
        if meanwhile is None:
            return list(json.loads(self._command(*command, shows=False)))
        self._show_command(command)
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as answer,  # a pipe that nobody reads yet would fill up
            subprocess.Popen(command, env=self._environment, stdout=answer, stderr=subprocess.PIPE, text=True) as run,
        ):
            for line in run.stderr or ():
                self._say(line.rstrip())
                if "loading" in line and meanwhile is not None:
                    meanwhile()
                    meanwhile = None
            run.wait()
            answer.seek(0)
            reports = answer.read()
        self._check(command, run.returncode)
        return list(json.loads(reports))

    def _rotate(self) -> None:
        self._command("datakit-lab", "rotate", "keytab")
        self._command("datakit-lab", "rotate", "password")

    def _published(self) -> tuple[int | None, str]:
        """Return the version of the key that the tickets come from, and the warehouse's password."""
        said = readiness(self._port("sidecar"))
        versions = [each["kvno"] for each in said["principals"].values()] if said else [None]
        return versions[0], (_STATE.secrets / _WAREHOUSE_SECRET).read_text(encoding="utf-8")

    def _tell_audit(self) -> None:
        """Print the lines of the audit log that were not printed yet."""
        lines = self._audit_lines()
        for line in lines[self._told :]:
            entry = json.loads(line)
            said = {name: value for name, value in entry.items() if name not in {"n", "at", "event", "previous"}}
            words = " ".join(f"{name}={_short(value)}" for name, value in said.items())
            told = Text.assemble(f"  {entry['n']:>3} {entry['at'][11:19]} ", (f"{entry['event']:<18} ", "bold"), words)
            self._console.print(told, no_wrap=True, overflow="ellipsis")
        self._told = len(lines)

    def _audit_lines(self) -> list[str]:
        return _STATE.audit.read_text(encoding="utf-8").splitlines() if _STATE.audit.exists() else []

    def _port(self, service: str) -> int:
        record = _STATE.read()
        if record is None:
            raise SystemExit("the lab went away; its logs are in .lab/logs")
        return record.services[service].port

    def _command(self, *command: str, shows: bool = True) -> str:
        """Run a command as a person would; return what it prints, unless that is for the person."""
        self._show_command(command)
        done = subprocess.run(
            command, env=self._environment, stdout=None if shows else subprocess.PIPE, text=True, check=False
        )
        self._check(command, done.returncode)
        return done.stdout or ""

    def _show_command(self, command: Sequence[str]) -> None:
        self._console.print(f"[bold cyan]$ {' '.join(command)}[/bold cyan]", highlight=False)

    def _check(self, command: Sequence[str], code: int) -> None:
        if code:
            self._say(f"`{' '.join(command)}` ended with {code}")
            raise SystemExit(code)

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.print(Rule(f"[bold]{text}[/bold]", align="left"))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | dict) else str(value)


def main() -> None:
    """Tell the whole story."""
    if _STATE.running:
        raise SystemExit(
            "a lab runs already in .lab; the demo wants a fresh one. Next step: .venv/bin/datakit-lab down"
        )
    keep = os.environ.get("KEEP", "") not in {"", "0"}
    demo = Demo(Console(width=None if sys.stdout.isatty() else 150))
    finished = False
    try:
        demo.bring_the_lab_up()
        demo.show_the_credentials()
        first = demo.load_and_rotate("First load: January to November, and meanwhile new keys and a new password")
        demo.let_the_source_live()
        second = demo.load("Second load: only what changed")
        demo.show("First load", first)
        demo.show("Second load", second)
        demo.prove_equality()
        finished = True
    finally:
        if not finished and not keep and _STATE.running:
            subprocess.run(["datakit-lab", "down"], check=False)
    if not keep:
        demo.clean_up()
    demo.verify_the_audit_log()
    demo.say_how_to_look_around(kept=keep)


if __name__ == "__main__":
    main()

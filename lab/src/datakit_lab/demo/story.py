"""The story that the demo tells, step by step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from datakit_lab.demo.airflow import Airflow
from datakit_lab.demo.following import follow
from datakit_lab.demo.places import Place
from datakit_lab.demo.proof import WAREHOUSE_SECRET, compared
from datakit_lab.errors import LabError
from datakit_lab.processes import wait_for

_FOLLOW_SECONDS: Final = 60
_DAG_FILE: Final = Path("warehouses/dags/warehouses.py")


class Demo:
    """The demo; every step is a public method and prints what it does.

    :param root: the tree, whose lab is in ``.lab``.
    """

    def __init__(self, console: Console, root: Path, place: Place, airflow: Airflow) -> None:
        self._console = console
        self._root = root
        self._place = place
        self._state = place.state
        self._airflow = airflow
        self._began = time.monotonic()
        self._environment = dict(os.environ)
        self._told = 0

    def bring_the_lab_up(self) -> None:
        """Start every server, with January to November in the source, and the sidecar."""
        self._title("A corporate network in a box: KDC, vault, SQL Server double, PostgreSQL, and the sidecar")
        self._told = len(self._place.audit_lines())  # an earlier lab's log goes on
        self._command("datakit-lab", "up", "--data", "airline")
        record = self._state.read()
        if record is None:
            raise LabError("the lab went away", fix="read its logs, in .lab/logs")
        self._environment |= record.environment
        self._place.start()

    def show_the_credentials(self) -> None:
        """Show what the sidecar made of the vault's keytab and password: service tickets, and a file in memory."""
        self._title("Of the vault's keytab and password the sidecar makes tickets and a file, in memory")
        self._command("klist")
        self._command("ls", "-l", f"{self._state.secrets.relative_to(self._root)}/{WAREHOUSE_SECRET.parent}/")
        for said, command in self._place.credentials:
            self._say(said)
            self._command(*command)
        self._tell_audit()

    def start_airflow(self) -> None:
        """Start Airflow, which finds a DAG for each warehouse and schedule in one line of a DAG file."""
        self._title(f"Airflow, in the environment {self._place.environment}: each task is {self._place.means}")
        self._command("cat", str(_DAG_FILE))
        self._say("\nStarting Airflow; its logs are .lab/logs/airflow-*.log")
        self._airflow.start(self._place.environment)
        self._say(f"Airflow answers at {self._airflow.url}, with the DAGs {', '.join(self._airflow.dags())}.")

    def load(self, title: str, meanwhile: Callable[[], None] | None = None) -> list[dict[str, Any]]:
        """Trigger every DAG; once the first rows move, do something else ``meanwhile``; return the run reports."""
        self._title(title)
        runs = []
        for dag in self._airflow.dags():
            self._console.print(f"[bold cyan]POST /api/v2/dags/{dag}/dagRuns[/bold cyan]", highlight=False)
            runs.append(self._airflow.trigger(dag))

        def say(task: str, line: str) -> None:
            nonlocal meanwhile
            told = Text.assemble((f"  {task:<26} ", "bold"), _without_names(line, task))
            self._console.print(told, no_wrap=True, overflow="ellipsis")
            if "loading" in line and meanwhile is not None:
                once, meanwhile = meanwhile, None
                once()

        return follow(self._airflow, runs, say)

    def load_and_rotate(self, title: str) -> list[dict[str, Any]]:
        """Load as :meth:`load` does; while the first rows move, rotate the keytab and the warehouse's password."""
        reports = self.load(title, self._rotate)

        def followed() -> bool:
            lines = self._place.audit_lines()[self._told :]
            return {"key.rotated", "secret.rotated"} <= {json.loads(line)["event"] for line in lines}

        if not wait_for(followed, seconds=_FOLLOW_SECONDS):
            raise LabError(
                "the sidecar did not follow the rotation", fix=f"read its audit log: {self._place.audit_log}"
            )
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
        self._title(f"{title}: the run reports, as Airflow has them from its tasks")
        table = Table()
        for column in ("dataset", "warehouse", "table", "mode"):
            table.add_column(column, no_wrap=True)
        for column in ("rows", "seconds", "rows/s"):
            table.add_column(column, justify="right", no_wrap=True)
        for report in sorted(reports, key=lambda report: (report["warehouse"], -report["rows_written"])):
            table.add_row(
                report["dataset"],
                report["warehouse"],
                report["table"],
                report["mode"],
                f"{report['rows_written']:,}",
                f"{report['seconds']:.2f}",
                f"{report['rows_per_second'] or 0:,}",
            )
        self._console.print(table)
        for datakit in sorted({f"{report['datakit']} with {report['source_datakit']}" for report in reports}):
            self._console.print(f"  by [bold]{datakit}[/bold]", highlight=False)
        for change in sorted({change for report in reports for change in report["schema_changes"]}):
            self._console.print(f"  schema change taken by the policy: [bold]{change}[/bold]", highlight=False)

    def verify_the_audit_log(self) -> None:
        """Check the chain of hashes that holds the audit log together."""
        self._title("Proof: nobody changed the audit log")
        self._place.audit_lines()
        self._command("datakit-sidecar", "verify-audit", str(self._place.audit_log.relative_to(self._root)))

    def prove_equality(self) -> None:
        """Compare count and digest of every table in source and warehouses.

        :raises LabError: a table differs.
        """
        self._title("Proof: source and warehouses are equal")
        table, wrong = compared(self._state, self._place.marketing, self._environment)
        self._console.print(table)
        if wrong:
            raise LabError(f"{wrong} tables differ")

    def clean_up(self) -> None:
        """End Airflow and what the runtime needed, then the lab; its logs stay."""
        self._title("Cleaning up")
        self._airflow.stop()
        self._place.stop()
        self._command("datakit-lab", "down")

    def say_how_to_look_around(self, *, kept: bool) -> None:
        """Say what a person may do next."""
        done = f"\nDone in {time.monotonic() - self._began:.0f} s."
        if not kept:
            self._say(f"{done} Look around yourself, in Airflow's pages, too: make demo KEEP=1")
            return
        user, password = self._airflow.login
        self._say(
            f"{done} Everything is still up.\n\n"
            f"Airflow: {self._airflow.url}, user {user}, password {password}\n\n"
            "    . .venv/bin/activate\n"
            '    eval "$(datakit-lab env)"\n'
            "    datakit preview airline.flights\n"
            "    datakit run --warehouse finance\n"
            "    datakit doctor\n"
            "    datakit-lab status\n"
            "    datakit-sidecar doctor --config .lab/sidecar.yaml\n"
            "    datakit-lab mutate; datakit-lab rotate keytab; datakit-lab rotate password\n"
            "    tail -f .lab/logs/audit.jsonl\n\n"
            "and when you have seen enough: make demo-down"
        )

    def _rotate(self) -> None:
        self._command("datakit-lab", "rotate", "keytab")
        self._command("datakit-lab", "rotate", "password")

    def _tell_audit(self) -> None:
        """Print the lines of the audit log that were not printed yet."""
        lines = self._place.audit_lines()
        for line in lines[self._told :]:
            entry = json.loads(line)
            said = {name: value for name, value in entry.items() if name not in {"n", "at", "event", "previous"}}
            words = " ".join(f"{name}={_short(value)}" for name, value in said.items())
            told = Text.assemble(f"  {entry['n']:>3} {entry['at'][11:19]} ", (f"{entry['event']:<18} ", "bold"), words)
            self._console.print(told, no_wrap=True, overflow="ellipsis")
        self._told = len(lines)

    def _command(self, *command: str) -> None:
        """Run a command as a person would.

        :raises SystemExit: it failed, and has said why.
        """
        self._show_command(command)
        # in a process group of its own: Ctrl-C is for the demo, which then ends what runs
        done = subprocess.run(command, env=self._environment, process_group=0, check=False)
        if done.returncode:
            self._say(f"`{' '.join(command)}` ended with {done.returncode}")
            raise SystemExit(done.returncode)

    def _show_command(self, command: Sequence[str]) -> None:
        self._console.print(f"[bold cyan]$ {' '.join(command)}[/bold cyan]", highlight=False)
        sys.stdout.flush()

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.print(Rule(f"[bold]{text}[/bold]", align="left"))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | dict) else str(value)


def _without_names(line: str, task: str) -> str:
    """Return what a datakit said of a task without the dataset and the warehouse, which stand before it anyway."""
    warehouse, _, dataset = task.partition("/")
    for names in (f"{dataset} → {warehouse}", dataset):
        if line.startswith((f"{names}:", f"{names} (")):
            return line.removeprefix(names).removeprefix(":").strip()
    return line

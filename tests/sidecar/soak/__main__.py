"""The command: ``make soak``, ``scripts/soak --minutes 10 --seed 1``.

It prints what happens (a table on a terminal, else a line every ten seconds) and a report at the end. The exit code is
0 if the sidecar was never worse than the faults excuse, else 1.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .intervals import total, united, without
from .run import RENEWABLE_LIVES, Plan, Result, Soak, run

_LINE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 1.0
_SHOWN_EVENTS: Final = 8
_LASTING: Final = "in the vault first"
"""A key that the realm does not know yet is refused, and never tried again: no sidecar recovers from that by itself."""


class Screen:
    """Shows a soak while it goes on."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._plan = plan
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def tick(self, soak: Soak) -> None:
        """Show the state, if it is time to."""
        if soak.elapsed < self._next:
            return
        self._next = soak.elapsed + (_LOOK_SECONDS if self._live else _LINE_SECONDS)
        state = self._state(soak)
        if self._live:
            self._live.update(self._table(soak, state), refresh=True)
        else:
            words = "; ".join(f"{name}: {value}" for name, value in state.items())
            self._console.print(f"{soak.elapsed:5.0f} s  {words}", highlight=False, markup=False)

    def _table(self, soak: Soak, state: dict[str, str]) -> Table:
        table = Table(title=f"{soak.elapsed:.0f} of {self._plan.seconds:.0f} s, seed {self._plan.seed}", expand=True)
        table.add_column("", no_wrap=True)
        table.add_column("", ratio=1)
        for row in state.items():
            table.add_row(*row)
        table.add_row("lately", "\n".join(soak.log[-_SHOWN_EVENTS:]))
        return table

    def _state(self, soak: Soak) -> dict[str, str]:
        found = soak.readers.found()
        now = time.time()
        unready = united(soak.probe.unready)
        # what a fault excuses is known when it has ended; one that lasts excuses until then
        lasting = [] if soak.doing == "nothing" else [(0.0, now)]
        beyond = [] if lasting else without(unready, soak.excused)
        weight = soak.probe.weights[-1] if soak.probe.weights else None
        return {
            "now": soak.doing,
            "sidecar": "ready" if not soak.probe.reasons else f"not ready: {soak.probe.reasons[0][:90]}",
            "unready": f"{total(unready):.1f} s, beyond faults {total(beyond):.1f} s",
            "reads": f"{found.reads:,}, failed {len(found.failures)}",
            "rotations": f"{soak.faults.rotations + soak.faults.secret_number - 1}",
            "weight": ""
            if weight is None
            else f"{weight.memory / 1e6:.1f} MB, {weight.threads} threads, "
            f"{'?' if weight.descriptors is None else weight.descriptors} descriptors",
        }


def report(result: Result, plan: Plan, folder: Path, console: Console) -> None:
    """Print what came of it."""
    table = Table(title=f"soak, seed {plan.seed}", show_header=False)
    for row in result.facts:
        table.add_row(*row)
    for fault, count in sorted(result.soak.done.items()):
        table.add_row(f"  {fault}", str(count))
    console.print(table)
    for problem in result.problems:
        console.print(problem, highlight=False, markup=False)
    if result.problems:
        again = f"scripts/soak --minutes {plan.seconds / 60:g} --seed {plan.seed}"
        console.print(f"{len(result.problems)} problems; everything is in {folder}; again: {again}", markup=False)
    else:
        console.print("nothing was worse than the faults excuse")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--seed", type=int, help="which chances; a new one each time")
    parser.add_argument("--life", type=int, default=4, metavar="SECONDS", help="of a ticket (4)")
    parser.add_argument(
        "--without",
        action="append",
        metavar="WORDS",
        help=f"leave out faults of this name (default: {_LASTING!r}, after which a sidecar waits for another key)",
    )
    parser.add_argument("--folder", type=Path, help="where everything is written, and left")
    chosen = parser.parse_args()
    plan = Plan(
        chosen.minutes * 60,
        secrets.randbelow(1_000_000) if chosen.seed is None else chosen.seed,
        timedelta(seconds=chosen.life),
        timedelta(seconds=chosen.life * RENEWABLE_LIVES),
        tuple(chosen.without or (_LASTING,)),
    )
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="datakit-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with Screen(console, plan) as screen:
        result = run(plan, folder.resolve(), screen.tick)
    report(result, plan, folder, console)
    if not result.problems and chosen.folder is None:
        shutil.rmtree(folder)
    return int(bool(result.problems))


if __name__ == "__main__":
    sys.exit(main())

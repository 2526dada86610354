"""Run the benchmark of the sidecar: ``python -m benchmarks.sidecar``, or ``scripts/bench sidecar``.

One machine, one run, one KDC. Starts are interleaved, each in a fresh process; then each contender renews a hundred
times in one process.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

from datakit_lab.certificates import issue_certificate
from datakit_lab.kdc import Kdc
from datakit_vault.testing import FakeVault
from rich.console import Console

from benchmarks import machine, results
from benchmarks.sidecar.contenders import CONTENDERS, Contender, Ours, Stage, add_account
from benchmarks.sidecar.measure import ContenderFailed, Figures, Weight, first_ticket, life, look

MARKS: Final = ("<!-- sidecar -->", "<!-- /sidecar -->")
_PAGE: Final = Path(__file__).parents[1] / "README.md"
_HEADINGS: Final = (
    "contender",
    "first ticket, s",
    "fastest",
    "slowest",
    "÷ ours",
    "of it CPU, s",
    "RSS, MB",
    "PSS",
    "after 100 renewals: RSS",
    "PSS",
    "a renewal, ms of CPU",
    "a day, s of CPU",
    "to install, MB",
)


def main() -> int:
    """Run what the command line asks for; 1 if a contender failed."""
    parser = argparse.ArgumentParser(prog="scripts/bench sidecar", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="starts of each contender (7)")
    parser.add_argument("--renewals", type=int, default=100, help="renewals of each contender (100)")
    parser.add_argument("--quick", action="store_true", help="one start, 5 renewals; does not change README.md")
    chosen = parser.parse_args()
    rounds, renewals = (1, 5) if chosen.quick else (chosen.rounds, chosen.renewals)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="datakit-bench-") as scratch, Kdc() as kdc:
        folder = Path(scratch)
        signed = issue_certificate(folder / "certificates")
        with FakeVault(host="localhost", certificate=signed.certificate, key=signed.key) as vault:
            stage = Stage(kdc, vault, signed.authority, folder / "keytab")
            add_account(stage)
            figures = _measured(stage, folder, rounds, renewals, console)
    rows = [_row(kind, each, figures[Ours]) for kind, each in figures.items()]
    results.show_rows(_HEADINGS, rows, Console(width=None if sys.stdout.isatty() else 160))
    if not chosen.quick:
        results.write(_PAGE, results.rows_as_markdown(_HEADINGS, rows, _facts(rounds, renewals)), MARKS)
        console.print(f"written to {_PAGE}")
    return int(any(each.error for each in figures.values()))


def _measured(
    stage: Stage, folder: Path, rounds: int, renewals: int, console: Console
) -> dict[type[Contender], Figures]:
    figures: dict[type[Contender], Figures] = {}
    for kind in CONTENDERS:
        if (needed := kind.missing()) is not None:
            console.print(f"{kind.name} is not here and left out: {needed}")
        else:
            figures[kind] = Figures(installed=kind.installed_bytes())
            kind(stage, folder / f"{kind.__name__}-prepared").prepare()
    names = list(figures)
    for number in range(rounds + 1):  # the first one warms up caches and does not count
        for kind in names[number % len(names) :] + names[: number % len(names)]:
            contender = kind(stage, folder / f"{kind.__name__}-{number}")
            _tried(figures[kind], partial(_start, contender, figures[kind], counts=number > 0))
            if number and figures[kind].first_ticket:
                console.print(f"round {number}: {kind.name}: {figures[kind].first_ticket[-1]:.3f} s")
    for kind, each in figures.items():
        console.print(f"{kind.name}: {renewals} renewals")
        contender = kind(stage, folder / f"{kind.__name__}-life")
        _tried(each, partial(life, contender, each, renewals=renewals))
    ours = Ours(stage, folder / "look", look_every="20ms")
    _tried(figures[Ours], lambda: setattr(figures[Ours], "look", look(ours)))
    for each in figures.values():
        if each.error:
            console.print(each.error, markup=False)
    return figures


def _start(contender: Contender, figures: Figures, *, counts: bool) -> None:
    seconds, work = first_ticket(contender)
    if counts:
        figures.first_ticket.append(seconds)
        figures.work.append(work)


def _tried(figures: Figures, work: Callable[[], object]) -> None:
    if figures.error:
        return
    try:
        work()
    except ContenderFailed as failure:
        figures.error = str(failure)


def _row(kind: type[Contender], figures: Figures, ours: Figures) -> list[str]:
    if figures.error or figures.renewal is None or figures.early is None or figures.late is None:
        return [kind.name, "failed", *[""] * (len(_HEADINGS) - 2)]
    start, renewal = median(figures.first_ticket), figures.renewal
    day = renewal * kind.renewals_per_day + figures.look * Ours.looks_per_day
    return [
        kind.name,
        f"{start:.3f}",
        f"{min(figures.first_ticket):.3f}",
        f"{max(figures.first_ticket):.3f}",
        f"{start / median(ours.first_ticket):.2f}" if ours.first_ticket else "",
        f"{median(figures.work):.2f}",
        *_weights(figures.early),
        *_weights(figures.late),
        f"{renewal * 1000:.1f}",
        f"{day:.2f}",
        f"{figures.installed / 1e6:.1f}",
    ]


def _weights(weight: Weight) -> tuple[str, str]:
    proportional = "?" if weight.proportional is None else f"{weight.proportional / 1e6:.1f}"
    return f"{weight.resident / 1e6:.1f}", proportional


def _facts(rounds: int, renewals: int) -> list[str]:
    k5start = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "kstart"], capture_output=True, text=True)
    python = Path(shutil.which("airflow", path=str(Path(__file__).parents[2] / ".venv-airflow/bin")) or "")
    airflow = ""
    if python.name:
        code = "import importlib.metadata as m; print(m.version('apache-airflow-core'))"
        done = subprocess.run([python.with_name("python"), "-c", code], capture_output=True, text=True, check=True)
        airflow = f", Airflow {done.stdout.strip()}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("datakit-sidecar", "krb5", "gssapi", "urllib3"))
    return [
        f"Run on {machine.now()} by `scripts/bench sidecar`; medians of {rounds} starts; {renewals} renewals each.",
        f"Machine: {machine.described()}; KDC, vault and contenders share it.",
        f"Python {platform.python_version()}, {packages}; kstart {k5start.stdout}{airflow}.",
    ]


if __name__ == "__main__":
    sys.exit(main())

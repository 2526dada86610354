"""``datakit doctor``: what is wrong on this machine, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from datakit.cli._options import Environment, Json
from datakit.cli._output import out, print_json
from datakit.errors import ConfigurationError

if TYPE_CHECKING:
    from datakit.cli._doctor import Finding

_MARKS = {"good": ("✓", "green"), "doubtful": ("!", "yellow"), "bad": ("✗", "red"), "unneeded": ("-", "dim")}


def doctor(environment: Environment = None, json_: Json = False) -> None:
    """Say what is wrong on this machine, and how to fix it.

    Looks at Python, drivers, libraries, clock, krb5.conf, tickets, secrets, hosts and the report's folder, and changes
    nothing. Exit code 78 if something would stop a run.
    """
    from datakit.cli._doctor import State, examine

    findings = []
    for finding in examine(environment):
        findings.append(finding)
        if not json_:
            _print(finding)
    bad = sum(finding.state is State.BAD for finding in findings)
    doubtful = sum(finding.state is State.DOUBTFUL for finding in findings)
    if json_:
        print_json(
            {
                "ok": not bad,
                "findings": [
                    {"subject": f.subject, "state": str(f.state), "detail": f.detail, "fix": f.fix} for f in findings
                ],
            }
        )
    else:
        out().print(f"{bad} bad, {doubtful} doubtful, {len(findings)} looked at", markup=False)
    if bad:
        raise typer.Exit(ConfigurationError.exit_code)


def _print(finding: Finding) -> None:
    from rich.text import Text

    mark, colour = _MARKS[finding.state]
    out().print(Text.assemble((f"{mark} ", colour), (finding.subject, "bold"), f": {finding.detail}"))
    if finding.fix and finding.state != "good":
        out().print(Text.assemble(("    next: ", "green"), finding.fix))

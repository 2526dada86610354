"""``datakit check``: everything that can be known about a tree without leaving the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datakit.cli._options import Json
from datakit.cli._output import out, print_json, print_problem
from datakit.errors import ConfigurationError


def check(
    path: Annotated[
        Path | None, typer.Argument(help="A tree, or one folder in it. [dim]Default: the tree around this folder[/dim]")
    ] = None,
    json_: Json = False,
) -> None:
    """Validate datakits, contracts, warehouses and environments, offline.

    Lists every problem at once; exit code 78 if there is one.
    """
    from datakit.cli._rules import check_tree
    from datakit.model.project import Project

    if path is not None and not path.is_dir():
        raise ConfigurationError("there is no such folder", subject=str(path))
    project = Project.find(path)
    findings = check_tree(project, only=path)
    checked = {
        "source datakits": len(project.sources()),
        "bronze datakits": len(project.bronzes()),
        "warehouses": len(project.warehouses()),
        "environments": len(project.environments()),
    }
    if json_:
        print_json(
            {
                "root": str(project.root),
                "ok": not findings.problems,
                "problems": [problem.as_json() for problem in findings.problems],
                "notes": findings.notes,
                "checked": {name.replace(" ", "_"): count for name, count in checked.items()},
            }
        )
    else:
        console = out()
        for problem in findings.problems:
            print_problem(console, problem)
        for note in findings.notes:
            console.print(
                f"[dim]note[/dim]  {note}" if console.is_terminal else f"note  {note}", markup=console.is_terminal
            )
        looked_at = ", ".join(_count(count, name) for name, count in checked.items() if count)
        verdict = _count(len(findings.problems), "problems") if findings.problems else "no problem"
        console.print(f"{verdict} in {looked_at} ({project.root})", markup=False)
    if findings.problems:
        raise typer.Exit(ConfigurationError.exit_code)


def _count(number: int, plural: str) -> str:
    return f"{number} {plural.removesuffix('s') if number == 1 else plural}"

"""``datakit audit``: the story of one run, from the commit to the rows, with the tickets and secrets it used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datakit.cli._locking import Offline, registries, repository_around
from datakit.cli._options import Json, complete_warehouse
from datakit.cli._output import out, print_json


def audit(
    wanted: Annotated[str, typer.Argument(metavar="RUN_ID|TABLE", help="A run, or SCHEMA.TABLE for its last load.")],
    reports: Annotated[
        Path, typer.Option("--reports", metavar="FOLDER", help="Run reports, as DATAKIT_REPORT leaves them.")
    ],
    audit_log: Annotated[
        Path | None,
        typer.Option("--audit-log", metavar="FILE", help="The sidecar's audit log, older files beside it."),
    ] = None,
    warehouse: Annotated[
        str | None, typer.Option("--warehouse", metavar="NAME", autocompletion=complete_warehouse)
    ] = None,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Tell a run's story: commit, release, provenance, lock change, DAG run, run, tickets and secrets used.

    Reads Git, the registry, run reports and the sidecar's log; what is not at hand is named as missing.
    """
    from datakit.model.project import Project
    from datakit.release._sidecar_log import SidecarLog
    from datakit.release.audit import Auditor, runs_of
    from datakit.release.reports import read_reports
    from datakit.release.verifying import provenance_of

    project = Project.find()
    found, _ = read_reports(reports)
    runs = runs_of(found, wanted, warehouse)
    auditor = Auditor(
        project,
        repository_around(project.root),
        None if offline else registries(),
        provenance_of,
        None if audit_log is None else SidecarLog.read(audit_log),
    )
    stories = [auditor.tell(run) for run in runs]
    if json_:
        print_json({"runs": [story.as_json() for story in stories]})
        return
    console = out()
    for number, story in enumerate(stories):
        if number:
            console.print()
        said = story.report.report
        console.print(f"{said.run_id}: {said.dataset} → {said.table or '?'} ({said.warehouse}, {said.environment})")
        console.print(f"{said.datakit or 'no datakit'}  {story.digest or 'digest not known'}", markup=False)
        for moment in story.moments:
            console.print(f"  {moment.time:%Y-%m-%d %H:%M:%S}  {moment.kind:<10}  {moment.what}", markup=False)
            console.print(f"  {'':19}  {'':10}  from {moment.source}", markup=False, style="dim")
        for each in story.missing:
            console.print(f"  {'missing':<19}  {each.kind:<10}  {each.what}", markup=False, style="yellow")
            console.print(f"  {'':19}  {'':10}  next: {each.fix}", markup=False, style="dim")

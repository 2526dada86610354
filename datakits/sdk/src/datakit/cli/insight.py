"""``datakit status``, ``history`` and ``drift``: what runs where, since when, by whom, and whether that is true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datakit.cli._locking import Name, Offline, Reports, age, print_table, registries, repository_around
from datakit.cli._options import Json, complete_environment
from datakit.cli._output import out, print_json
from datakit.errors import ConfigurationError, TemporaryError

if TYPE_CHECKING:
    from datetime import datetime

    from datakit.release.status import StatusRow

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ENVIRONMENT]...", autocompletion=complete_environment, help="None means all."),
]


def status(environments: Names = None, offline: Offline = False, json_: Json = False) -> None:
    """Say which version runs where: environments by warehouses by datakits, with age, and how far each is behind."""
    from datetime import UTC, datetime

    from datakit.model.project import Project
    from datakit.release.deployed import deployed_in
    from datakit.release.status import status as read_status

    now = datetime.now(UTC)
    project = Project.find()
    open_one = None if offline else registries()
    images, unknown = deployed_in(project, environments or project.environment_files, open_one)
    locks = {name: image.lock for name, image in images.items()}
    rows, notes = read_status(project, environments or (), open_registry=open_one, deployed=locks)
    notes = (*notes, *unknown)
    if json_:
        print_json({"rows": [row.as_json(now) for row in rows], "notes": list(notes)})
        return
    console = out()
    if rows:
        print_table(("datakit", "warehouses", *dict.fromkeys(row.environment for row in rows)), _lines(rows, now))
    else:
        console.print("nothing can run here: no warehouse is in an environment")
    for note in notes:
        console.print(f"note  {note}", markup=False)


def history(
    environment: Name,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many changes.")] = 20,
    json_: Json = False,
) -> None:
    """List the changes of a lock, the latest first, with the number and the commit that datakit rollback takes."""
    from itertools import islice

    from datakit.model.lock import lock_path
    from datakit.model.project import Project
    from datakit.release.git import GitRepository
    from datakit.release.history import lock_history

    project = Project.find()
    project.environment(environment)
    path = lock_path(project.environment_files[environment].path)
    repository = GitRepository.around(path.parent)
    entries = list(islice(lock_history(repository, path, environment), limit))
    shallow = repository.is_shallow()
    if json_:
        print_json({"environment": environment, "shallow": shallow, "changes": [entry.as_json() for entry in entries]})
        return
    console = out()
    for entry in entries:
        how = "" if entry.is_by_command else "  BY HAND"
        when = f"{entry.commit.time:%Y-%m-%d %H:%M}"
        head = f"{entry.number:>3}  {entry.commit.revision[:12]}  {when}  {entry.commit.author}{how}"
        console.print(head, markup=False, style=None if entry.is_by_command else "bold red")
        console.print(f"     {entry.commit.subject}", markup=False)
        for change in entry.changes:
            console.print(f"     {change}", markup=False)
    if not entries:
        console.print(f"{environment} never had a lock; begin it: datakit lock {environment}", markup=False)
    if shallow:
        console.print("note  this clone is shallow: git fetch --unshallow brings the rest", markup=False)


def drift(environments: Names = None, reports: Reports = None, offline: Offline = False, json_: Json = False) -> None:
    """Compare locks with the registry, with Git, with the tree, and with what ran. Exit code 78 if they differ.

    75 if nothing differs, but a registry did not answer.
    """
    from datakit.model.project import Project
    from datakit.release.deployed import deployed_in
    from datakit.release.drift import Drift, find_drift
    from datakit.release.reports import read_reports

    project = Project.find()
    if project.broken:
        raise project.broken[0]
    ran, unread = read_reports(reports) if reports else ((), ())
    open_one = None if offline else registries()
    found: list[Drift] = []
    notes = [f"{path} holds no run report" for path in unread]
    names = environments or sorted(project.environment_files)
    deployed, unknown = deployed_in(project, names, open_one)
    notes += unknown
    for name in names:
        project.environment(name)
        repository = repository_around(project.environment_files[name].path.parent)
        more, said = find_drift(
            project, name, repository=repository, open_registry=open_one, reports=ran, deployed=deployed.get(name)
        )
        found += more
        notes += said
    if reports is None:
        notes.append("not compared with what ran: give the folder of run reports, --reports FOLDER")
    if json_:
        print_json({"drift": [each.as_json() for each in found], "notes": notes, "environments": list(names)})
    else:
        _show_drift(found, notes, len(names))
    if found:
        raise typer.Exit(ConfigurationError.exit_code)
    if any("not compared with the registry" in note for note in notes):
        raise typer.Exit(TemporaryError.exit_code)


def _show_drift(found: list[Any], notes: list[str], count: int) -> None:
    from rich.text import Text

    console = out()
    for each in found:
        subject = (f"{each.environment} {each.subject}: ", "bold")
        console.print(Text.assemble((f"{each.kind} ", "bold red"), subject, each.what))
        console.print(Text.assemble(("  next:  ", "green"), each.fix))
    for note in notes:
        console.print(f"note  {note}", markup=False)
    verdict = "no difference" if not found else f"{len(found)} difference{'s' if len(found) > 1 else ''}"
    console.print(f"{verdict} in {count} environment{'s' if count != 1 else ''}", markup=False)


def _lines(rows: Sequence[StatusRow], now: datetime) -> Iterator[tuple[str, ...]]:
    """Yield a line for each datakit, with a column for each environment; warehouses that have the same share one."""
    environments = tuple(dict.fromkeys(row.environment for row in rows))
    cells = {(row.datakit, row.warehouse, row.environment): _cell(row, now) for row in rows}
    together: dict[tuple[str, ...], list[str]] = {}
    for kit, house in sorted({(row.datakit, row.warehouse) for row in rows}):
        line = (kit, *(cells.get((kit, house, environment), "-") for environment in environments))
        together.setdefault(line, []).append(house)
    for (kit, *rest), houses in together.items():
        yield kit, ", ".join(houses), *rest


def _cell(row: StatusRow, now: datetime) -> str:
    if row.pin is None:
        parts = ["nothing: frozen, not pinned" if row.frozen else f"not pinned (the tree has {row.in_tree or 'none'})"]
        return ", ".join([*parts, *_not_deployed(row)])
    parts = [f"{row.pin.version} {row.pin.digest.removeprefix('sha256:')[:8]}", age(row.age(now))]
    if row.newer is None:
        parts.append("behind ?")
    elif row.newer:
        parts.append(f"behind {len(row.newer)}")
    if not row.by_command:
        parts.append("edited by hand")
    parts += _not_deployed(row)
    return ", ".join(parts)


def _not_deployed(row: StatusRow) -> list[str]:
    if row.is_deployed is not False:
        return []
    return [f"{row.deployed.version} runs: not deployed yet" if row.deployed else "not deployed yet"]

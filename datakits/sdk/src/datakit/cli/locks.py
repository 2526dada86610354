"""``datakit lock``, ``promote``, ``rollback`` and ``diff``: what an environment runs, each change one Git commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datakit.cli._locking import DryRun, Name, Why, print_table, reason, registries
from datakit.cli._options import Json, complete_environment
from datakit.cli._output import out, print_json

if TYPE_CHECKING:
    from datakit.model.project import Project
    from datakit.release.git import GitRepository
    from datakit.release.locks import PinChange
    from datakit.release.promotion import Planner
    from datakit.release.proposal import Proposal

Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="PIN", help="A DATAKIT, a WAREHOUSE or WAREHOUSE/DATAKIT; may be given repeatedly."),
]
Environment = Annotated[str, typer.Argument(autocompletion=complete_environment, show_default=False)]


def lock(
    environment: Name,
    pins: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PIN]...",
            help="DATAKIT or WAREHOUSE/DATAKIT, with @VERSION, @RANGE such as @^1.2, or @sha256:… "
            "[dim]Default: all that the environment's warehouses take, the newest in the range that each pin "
            "has[/dim]",
        ),
    ] = None,
    why: Why = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Pin releases by digest, as one commit; without names, also remove what no warehouse takes any more.

    A range stays in the lock: the next datakit lock follows it. A frozen environment takes digests only.
    """
    from datakit.release.selectors import Selector

    wanted = [Selector.parse(each) for each in pins or ()]
    _change(environment, [environment], why, dry_run, json_, lambda planner, _: planner.lock(environment, wanted))


def promote(
    source: Annotated[str, typer.Argument(metavar="FROM", autocompletion=complete_environment)],
    target: Annotated[str, typer.Argument(metavar="TO", autocompletion=complete_environment)],
    only: Only = None,
    why: Why = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Copy pins from one environment's lock to another's, as one commit.

    Refuses a digest that was never released, that FROM does not pin, or that was edited by hand. Never pushes.
    """
    from datakit.release.selectors import Selector

    chosen = [Selector.parse(each) for each in only or ()]
    _change(target, [target, source], why, dry_run, json_, lambda planner, _: planner.promote(source, target, chosen))


def rollback(
    environment: Name,
    to: Annotated[
        str, typer.Option("--to", metavar="N|COMMIT", help="How many changes back, or a commit; see datakit history.")
    ] = "1",
    only: Only = None,
    why: Why = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Restore earlier pins, as one new commit.

    It is a change like any other, so the next rollback without --to takes it back. Works while the registry is away.
    """
    from datakit.release.changing import earlier
    from datakit.release.selectors import Selector

    chosen = [Selector.parse(each) for each in only or ()]

    def plan(planner: Planner, repository: GitRepository) -> Proposal:
        path = _lock_path(planner.project, environment)
        then, revision = earlier(repository, path, environment, to)
        return planner.roll_back(environment, then.lock, revision, chosen)

    _change(environment, [environment], why, dry_run, json_, plan)


def diff(
    one: Annotated[str, typer.Argument(metavar="ENVIRONMENT", autocompletion=complete_environment)],
    other: Annotated[str, typer.Argument(metavar="OTHER", autocompletion=complete_environment)],
    json_: Json = False,
) -> None:
    """Compare the pins of two environments, offline."""
    from datakit.model.project import Project
    from datakit.release.locks import compare
    from datakit.release.promotion import Place

    project = Project.find()
    places = [Place.read(project, name) for name in (one, other)]
    changes = compare(places[0].lock.lock, places[1].lock.lock)
    if json_:
        print_json({"environments": [one, other], "differences": [change.as_json() for change in changes]})
        return
    if not changes:
        same = any(place.lock.text is not None for place in places)
        said = f"{one} and {other} pin the same" if same else f"neither {one} nor {other} has a lock"
        out().print(said, markup=False)
        return
    print_table(("warehouse", "datakit", one, other, ""), [_difference(change) for change in changes])


def _difference(change: PinChange) -> tuple[str, ...]:
    before, after = change.before, change.after
    words = ""
    if before and after and before.version == after.version:
        words = "another digest"
    elif before and after and before.contract and after.contract and before.contract != after.contract:
        words = "another contract"
    return change.warehouse, change.datakit, *(pin.version if pin else "-" for pin in (before, after)), words


def _lock_path(project: Project, name: str) -> Path:
    from datakit.model.lock import lock_path

    project.environment(name)
    return lock_path(project.environment_files[name].path)


def _change(
    environment: str,
    names: Sequence[str],
    why: str | None,
    dry_run: bool,
    json_: bool,
    plan: Callable[[Planner, GitRepository], Proposal],
) -> None:
    from datetime import UTC, datetime

    from datakit.model.project import Project
    from datakit.release.changing import change_file
    from datakit.release.git import GitRepository
    from datakit.release.promotion import Planner

    project = Project.find()
    path = _lock_path(project, environment)
    repository = GitRepository.around(path.parent)
    needs = [project.environment_files[name].path for name in names]
    needs += [_lock_path(project, name) for name in names[1:]]
    needs += [found.path for found in project.warehouse_files.values()]
    now = datetime.now(UTC).replace(microsecond=0)
    planner = Planner(project, registries(), repository.identity(), now, reason(why))
    proposal, commit = change_file(repository, path, needs, lambda: plan(planner, repository), dry_run=dry_run)
    if json_:
        print_json({**proposal.as_json(), "commit": commit, "dry_run": dry_run})
    else:
        _show(proposal, commit, dry_run=dry_run)


def _show(proposal: Proposal, commit: str | None, *, dry_run: bool) -> None:
    console = out()

    def say(text: Any) -> None:
        console.print(text, markup=False)

    for note in proposal.notes:
        say(f"note  {note}")
    if not proposal.changes:
        say(f"nothing to change: {proposal.environment} pins these releases already")
        return
    if dry_run:
        say(proposal.diff.rstrip("\n"))
        say("")
        say(proposal.message.rstrip("\n"))
        say("")
        say("nothing was written; without --dry-run this is committed")
        return
    for change in proposal.changes:
        say(str(change))
    say(f"committed {(commit or '')[:12]}: {proposal.message.partition(chr(10))[0]}")
    say("next:  git push, or open a pull request; an environment changes when its Airflow image is deployed")

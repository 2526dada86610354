"""``datakit airflow build``, ``push`` and ``deploy``: the Airflow image with DAGs, warehouses and locks, on its way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datakit.cli._locking import DryRun, Why, reason
from datakit.cli._options import Json, complete_environment
from datakit.cli._output import out, print_json
from datakit.cli._registry import Address, CaFile, Load, Output, PasswordFile, User, megabytes, open_chosen
from datakit.errors import ConfigurationError, ReleaseRefused

if TYPE_CHECKING:
    from datakit.model.environment import AirflowDeployment
    from datakit.model.project import Project
    from datakit.release.deploying import Deployable, GitOpsChange
    from datakit.release.deployment import Deployment
    from datakit.release.pushing import Pushed
    from datakit.release.registry import Registry

app = typer.Typer(
    no_args_is_help=True, help="The image that an Airflow is deployed as: DAGs, warehouses, environments and locks."
)

Base = Annotated[
    str | None,
    typer.Option(
        metavar="REPOSITORY:TAG",
        help="Airflow with the provider, in the registry. [dim]Default: platform/airflow of this version[/dim]",
    ),
]
DagsFolder = Annotated[
    str | None,
    typer.Option(
        "--dags-folder",
        metavar="PATH",
        help="Where the image's Airflow looks for DAGs. [dim]Default: what the base says[/dim]",
    ),
]


@app.command("build")
def build(
    base: Base = None,
    dags_folder: DagsFolder = None,
    output: Output = None,
    load: Load = False,
    registry: Address = None,
    username: User = None,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    json_: Json = False,
) -> None:
    """Make the Airflow image of this commit, without an engine; push nothing.

    The same commit on the same base has the same digest, on every machine.
    Refused: something uncommitted, a problem that datakit check finds,
    a pin that was edited by hand, a file that looks like a secret.
    """
    from datakit.model.project import Project
    from datakit.release.deployment import REPOSITORY
    from datakit.release.layout import load_into_engine, write_layout

    with open_chosen(registry, username, password_file, ca_file) as opened:
        made = _made(Project.find(), opened, base, dags_folder)
        reference = f"{opened.image(REPOSITORY)}:{made.tag}"
        if output is not None:
            write_layout(made.parts, output, reference)
        loaded = load_into_engine(made.parts, reference) if load else None
    if json_:
        print_json({**_json_of(made, reference), "output": str(output) if output else None, "loaded": loaded})
        return
    _show(made, reference)
    _show_unpinned(made)
    if output is not None:
        out().print(f"  written   {output}", markup=False)
    if loaded:
        out().print(f"  loaded    {loaded}", markup=False)


@app.command("push")
def push(
    base: Base = None,
    dags_folder: DagsFolder = None,
    registry: Address = None,
    username: User = None,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    json_: Json = False,
) -> None:
    """Make the Airflow image of this commit and push it, its tag last.

    The tag is the day and hash of the commit and the start of the base's digest; it never moves.
    Run again, it completes what was interrupted.
    """
    from datakit.model.project import Project
    from datakit.release.deploying import push_deployment
    from datakit.release.deployment import REPOSITORY

    began = time.monotonic()

    def say(step: str) -> None:
        if not json_:
            out().print(step, style="dim", markup=False)

    with open_chosen(registry, username, password_file, ca_file) as opened:
        say("checking the tree")
        made = _made(Project.find(), opened, base, dags_folder)
        reference = f"{opened.image(REPOSITORY)}:{made.tag}"
        pushed = push_deployment(made, opened, say=lambda part: say(f"pushing {part}"))
    seconds = time.monotonic() - began
    if json_:
        sent = {"blobs": pushed.blobs, "bytes": pushed.size} if pushed else None
        state = "pushed" if pushed else "already pushed"
        print_json({**_json_of(made, reference), "state": state, "pushed": sent, "seconds": round(seconds, 3)})
        return
    _show_pushed(made, reference, pushed, seconds)


@app.command("deploy")
def deploy(
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENVIRONMENT", autocompletion=complete_environment, help="Whose Airflow gets the image."
        ),
    ],
    image: Annotated[
        str | None,
        typer.Option(metavar="TAG|DIGEST", help="An image that was pushed. [dim]Default: the one of this commit[/dim]"),
    ] = None,
    base: Base = None,
    dags_folder: DagsFolder = None,
    why: Why = None,
    dry_run: DryRun = False,
    registry: Address = None,
    username: User = None,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    json_: Json = False,
) -> None:
    """Give an environment's Airflow an image that was pushed, by digest.

    As its section airflow says: one commit in the GitOps folder, which is never pushed;
    or self-hosted Astronomer, by its API or its command.
    An earlier --image brings the datakits back that it pins.
    """
    from datakit.model.lock import read_lock
    from datakit.model.project import Project
    from datakit.release.deploying import find_deployable, lock_notes, refuse_unpinned

    project = Project.find()
    place = project.environment(environment)
    file = project.environment_files[environment].path
    way = place.airflow
    if way is None:
        raise ConfigurationError(
            f"the environment {environment!r} does not say how its Airflow is deployed",
            subject=str(file),
            fix="add the section airflow, such as airflow: {deploy: gitops, overlay: deploy/airflow/int}",
        )
    with open_chosen(registry or place.registry, username, password_file, ca_file) as opened:
        found = find_deployable(
            opened, image or _pushed_of_commit(project, opened, base, dags_folder, environment), environment
        )
        refuse_unpinned(found, environment)
        notes = lock_notes(found, read_lock(file), environment)
        if way.deploy == "gitops":
            _by_commit(project, way, found, environment, opened, reason(why), notes, dry_run=dry_run, json_=json_)
            return
    _to_astronomer(project, way, found, environment, notes, dry_run=dry_run, json_=json_)


def _made(project: Project, registry: Registry, base: str | None, dags_folder: str | None) -> Deployment:
    """Check the tree and make its image.

    :raises ReleaseRefused: a rule forbids it.
    """
    from datakit.cli._rules import refuse_problems
    from datakit.release.deployment import build_deployment, refuse_undeployable

    if project.is_alone:
        raise ConfigurationError(
            "this is one datakit's or one warehouse's folder, and an Airflow has a whole tree",
            subject=str(project.root),
            fix="change into the folder that holds datakits/ and warehouses/",
        )
    refuse_problems(project)
    made = build_deployment(project, registry, base=base, dags_folder=dags_folder)
    refuse_undeployable(project, made)
    return made


def _pushed_of_commit(
    project: Project, registry: Registry, base: str | None, dags_folder: str | None, environment: str
) -> str:
    """Return the digest of this commit's image.

    :raises ReleaseRefused: it was not pushed.
    """
    from datakit.release.deployment import REPOSITORY

    made = _made(project, registry, base, dags_folder)
    if registry.resolve(REPOSITORY, made.tag) != made.digest:
        raise ReleaseRefused(
            "the image of this commit was not pushed",
            subject=f"{registry.image(REPOSITORY)}:{made.tag}",
            fix=f"datakit airflow push; then datakit airflow deploy {environment}",
        )
    return made.digest


def _by_commit(
    project: Project,
    way: AirflowDeployment,
    image: Deployable,
    environment: str,
    registry: Registry,
    why: str | None,
    notes: tuple[str, ...],
    *,
    dry_run: bool,
    json_: bool,
) -> None:
    from datakit.release.changing import change_file
    from datakit.release.deploying import plan_gitops
    from datakit.release.git import GitRepository
    from datakit.release.overlay import Overlay

    path = Overlay.read(project.root, way).path
    change, commit = change_file(
        GitRepository.around(path.parent),
        path,
        [project.environment_files[environment].path],
        lambda: plan_gitops(project.root, way, image, environment, registry, why=why),
        dry_run=dry_run,
    )
    notes = (*change.notes, *notes)
    if json_:
        print_json(
            {**_json_of_deploy(way, image, environment, notes, dry_run=dry_run), **change.as_json(), "commit": commit}
        )
        return
    _show_change(change, commit, notes, dry_run=dry_run)


def _show_change(change: GitOpsChange, commit: str | None, notes: tuple[str, ...], *, dry_run: bool) -> None:
    console = out()
    for note in notes:
        console.print(f"note  {note}", markup=False)
    if change.text is None:
        console.print(
            f"nothing to change: {change.environment} has Airflow {change.image.version} already", markup=False
        )
        return
    if dry_run:
        for text in (change.diff, change.message):
            console.print(text.rstrip("\n") + "\n", markup=False)
        console.print("nothing was written; without --dry-run this is committed", markup=False)
        return
    for pin in change.pins:
        console.print(str(pin), markup=False)
    console.print(f"committed {(commit or '')[:12]}: {change.message.partition(chr(10))[0]}", markup=False)
    console.print("next:  git push, or open a pull request; the cluster follows what is merged", markup=False)


def _to_astronomer(
    project: Project,
    way: AirflowDeployment,
    image: Deployable,
    environment: str,
    notes: tuple[str, ...],
    *,
    dry_run: bool,
    json_: bool,
) -> None:
    from datakit.release.astronomer import command_of, request_of, run_command, update_image

    by_api = way.deploy == "astronomer"
    asked: Any = {"url": way.url, **request_of(way, image)} if by_api else command_of(way, image)
    answered: Any = None
    if not dry_run:
        answered = dict(update_image(project.root, way, image)) if by_api else run_command(way, image)
    if json_:
        print_json(
            {
                **_json_of_deploy(way, image, environment, notes, dry_run=dry_run),
                "asked": asked,
                "answered": answered,
            }
        )
        return
    console = out()
    for note in notes:
        console.print(f"note  {note}", markup=False)
    where = f"{way.release} at {way.url}" if by_api else f"deployment {way.deployment}"
    if dry_run:
        said = f"{way.url}\n{asked['query']}{asked['variables']}" if by_api else " ".join(asked)
        console.print(f"{said}\n\nnothing was sent; without --dry-run this is", markup=False)
        return
    console.print(f"{environment}: {where} gets Airflow {image.version}", markup=False)
    console.print(f"  image     {image.image}", markup=False)
    for warehouse, datakit, pin in image.lock.pins():
        console.print(f"  pins      {warehouse}/{datakit} {pin.version}", markup=False)
    console.print("next:  Astronomer replaces its containers in the next minutes; its page shows how far", markup=False)


def _json_of_deploy(
    way: AirflowDeployment, image: Deployable, environment: str, notes: tuple[str, ...], *, dry_run: bool
) -> dict[str, Any]:
    return {
        "environment": environment,
        "deploy": way.deploy,
        "image": image.image,
        "version": image.version,
        "revision": image.revision,
        "pins": [
            {"warehouse": house, "datakit": kit, "version": pin.version, "digest": pin.digest}
            for house, kit, pin in image.lock.pins()
        ],
        "notes": list(notes),
        "dry_run": dry_run,
    }


def _json_of(made: Deployment, reference: str) -> dict[str, Any]:
    base = made.parts.origins[0]
    return {
        "image": reference,
        "digest": made.digest,
        "revision": made.commit.revision,
        "base": {"name": base.name, "digest": base.digest},
        "runtime_version": made.runtime_version,
        "dags": made.dags,
        "files": made.files,
        "size": made.parts.size,
        "own_size": len(made.parts.layer),
        "unpinned": {environment: list(lacking) for environment, lacking in made.unpinned.items()},
    }


def _show(made: Deployment, reference: str) -> None:
    console, base = out(), made.parts.origins[0]
    console.print(reference, markup=False)
    console.print(f"  digest    {made.digest}")
    console.print(f"  revision  {made.commit.revision}")
    console.print(f"  base      {base.name}@{base.digest[:19]}…", markup=False)
    if made.runtime_version:
        console.print(f"  runtime   Astronomer {made.runtime_version}", markup=False)
    console.print(f"  holds     {made.dags} DAG file{'s' if made.dags > 1 else ''}, {made.files} others of the tree")
    console.print(f"  size      {megabytes(made.parts.size)}, of which {megabytes(len(made.parts.layer))} are its own")


def _show_unpinned(made: Deployment) -> None:
    for environment, lacking in made.unpinned.items():
        said = f"{environment} is frozen and pins no {', '.join(lacking)}: this image is not for it yet"
        out().print(f"note  {said}", markup=False)


def _show_pushed(made: Deployment, reference: str, pushed: Pushed | None, seconds: float) -> None:
    console = out()
    _show_unpinned(made)
    if pushed is None:
        console.print(f"{reference} was pushed already, as {made.digest}", markup=False)
        return
    console.print(f"pushed {reference}", markup=False)
    console.print(f"  digest    {made.digest}")
    console.print(f"  sent      {pushed.blobs} blobs, {megabytes(pushed.size)}, in {seconds:.1f} s")
    console.print("next:  datakit airflow deploy ENVIRONMENT", markup=False)

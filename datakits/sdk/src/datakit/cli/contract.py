"""``datakit contract``: write down what a source looks like, and say what drifted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datakit.cli._options import Datasets, Environment, Json, complete_dataset
from datakit.cli._output import out, print_json, show_error
from datakit.errors import ConfigurationError, ContractMismatch, DatakitError, UnknownName

if TYPE_CHECKING:
    from datakit.model.contract import Change, Contract
    from datakit.model.project import LoadedSource, Project

app = typer.Typer(help="The columns, types and key of a dataset: write them down, and say what drifted.")


@app.callback(invoke_without_command=True)
def _contract(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("pull")
def pull(datasets: Datasets = None, environment: Environment = None, json_: Json = False) -> None:
    """Write contracts/DATASET.yaml from the live source.

    A dataset that fails does not stop the others.
    """
    from datakit.model.project import Project
    from datakit.model.yaml import write

    project = Project.find()
    results: list[dict[str, Any]] = []
    failures: list[DatakitError] = []
    for pair in _live_contracts(project, datasets, environment):
        if pair.error is not None:
            failures.append(pair.error)
            continue
        path = pair.source.contract_path(pair.dataset.partition(".")[2])
        state, changes = _compare(pair)
        if state != "unchanged":
            _replace(path, _schema_line(path, project) + write(pair.live))
        results.append({"dataset": pair.dataset, "path": str(path), "state": state, "changes": _as_json(changes)})
        if not json_:
            columns = f", {len(pair.live.columns)} columns" if state == "new" else ""
            out().print(f"{pair.dataset}: {state}{columns}", markup=False)
            _print_changes(changes)
    if json_:
        print_json({"contracts": results, "errors": [error.as_json() for error in failures]})
    _finish(failures)


@app.command("check")
def check(datasets: Datasets = None, environment: Environment = None, json_: Json = False) -> None:
    """Compare the contracts with the live source. Exit code 78 if something drifted."""
    from datakit.model.project import Project

    results: list[dict[str, Any]] = []
    failures: list[DatakitError] = []
    for pair in _live_contracts(Project.find(), datasets, environment):
        if pair.error is not None:
            failures.append(pair.error)
            continue
        state, changes = _compare(pair)
        results.append({"dataset": pair.dataset, "state": state, "changes": _as_json(changes)})
        if not json_:
            out().print(f"{pair.dataset}: {state if state in ('new', 'changed') else 'as agreed'}", markup=False)
            _print_changes(changes)
        if state == "new":
            failures.append(
                ConfigurationError(
                    "there is no contract yet", subject=pair.dataset, fix=f"datakit contract pull {pair.dataset}"
                )
            )
        elif state == "changed":
            failures.append(
                ContractMismatch(
                    f"the source is not what was agreed: {len(changes)} {'change' if len(changes) == 1 else 'changes'}",
                    subject=pair.dataset,
                    fix=f"if it is meant to be: datakit contract pull {pair.dataset}, and release a new version",
                )
            )
    if json_:
        print_json({"contracts": results, "errors": [error.as_json() for error in failures]})
    _finish(failures)


@app.command("diff")
def diff(
    before: Annotated[
        str,
        typer.Argument(
            metavar="A",
            autocompletion=complete_dataset,
            help="A contract's file, CONNECTION.DATASET, or a release NAME@VERSION.",
        ),
    ],
    after: Annotated[
        str | None,
        typer.Argument(
            metavar="[B]", autocompletion=complete_dataset, help="The same; left out, the live source of dataset A."
        ),
    ] = None,
    environment: Environment = None,
    json_: Json = False,
) -> None:
    """Show what changes from contract A to contract B. Exit code 0 if nothing does, else 78.

    A dataset stands for its contract in the tree; [bold]live:[/bold]CONNECTION.DATASET for what its source has now.
    Two releases are compared dataset by dataset, with the bump that each change calls for.
    """
    if after is not None and ("@" in before or "@" in after) and not Path(before).exists():
        _diff_releases(before, after, json_)
        return
    from datakit.model.contract import diff_contracts

    if after is None:
        if Path(before).is_file():
            raise ConfigurationError(
                "a file is compared with another one", subject=before, fix="name the second file, or a dataset"
            )
        after = f"live:{before.removeprefix('live:')}"
    old, new = _resolve(before, environment), _resolve(after, environment)
    changes = diff_contracts(old, new)
    if json_:
        print_json({"before": before, "after": after, "changes": _as_json(changes)})
    elif changes:
        _print_changes(changes)
    else:
        out().print("no difference", markup=False)
    if changes:
        raise typer.Exit(ContractMismatch.exit_code)


def _diff_releases(before: str, after: str, as_json: bool) -> None:
    from datakit.cli.releases import released_differences

    found = released_differences(before, after)
    if as_json:
        print_json({"before": before, "after": after, "changes": [each.as_json() for each in found]})
    for each in () if as_json else found:
        out().print(f"  {each.dataset or 'landing'}: {each.words} ({each.bump})", markup=False)
    if found:
        raise typer.Exit(ContractMismatch.exit_code)
    if not as_json:
        out().print("no difference", markup=False)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A dataset's contract in the tree and its live one, or why it could not be had."""

    dataset: str
    source: LoadedSource
    stored: Contract | None
    _live: Contract | None
    error: DatakitError | None = None

    @property
    def live(self) -> Contract:
        if self._live is None:
            raise RuntimeError("asked for the live contract of a dataset that failed")
        return self._live


def _live_contracts(project: Project, datasets: Sequence[str] | None, environment: str | None) -> Iterator[_Pair]:
    """Yield every dataset asked for, by source datakit, each of which is opened once."""
    from datakit.cli._live import opened

    by_source: dict[str, tuple[LoadedSource, list[str]]] = {}
    wanted = datasets or project.datasets()
    if not wanted and project.broken:
        raise project.broken[0]
    for reference in wanted:
        source = project.dataset_source(reference)
        by_source.setdefault(source.manifest.name, (source, []))[1].append(reference)
    for source, references in by_source.values():
        try:
            with opened(project, source, environment) as live:
                for reference in references:
                    yield _describe(live, source, reference)
        except DatakitError as error:  # the whole source system: none of its datasets can be had
            yield _Pair(references[0], source, None, None, error)


def _describe(live: Any, source: LoadedSource, reference: str) -> _Pair:
    name = reference.partition(".")[2]
    try:
        stored = source.contracts.get(name)
        return _Pair(reference, source, stored, live.describe(reference, source.manifest.datasets[name]))
    except DatakitError as error:
        return _Pair(reference, source, None, None, error)


def _compare(pair: _Pair) -> tuple[str, tuple[Change, ...]]:
    from datakit.model.contract import diff_contracts

    if pair.stored is None:
        return "new", ()
    changes = diff_contracts(pair.stored, pair.live)
    if changes:
        return "changed", changes
    return "unchanged" if pair.stored == pair.live else "refreshed", ()  # the order or the source's spelling differs


def _resolve(name: str, environment: str | None) -> Contract:
    from datakit.cli._live import opened
    from datakit.model.contract import Contract
    from datakit.model.project import Project
    from datakit.model.yaml import load

    if Path(name).is_file():
        return load(Path(name), Contract)
    if "/" in name or name.endswith((".yaml", ".yml")):
        raise ConfigurationError("there is no such file", subject=name)
    project = Project.find()
    reference = name.removeprefix("live:")
    source, _, definition, stored = project.dataset(reference)
    if name.startswith("live:"):
        with opened(project, source, environment) as live:
            return live.describe(reference, definition)
    if stored is None:
        raise UnknownName(
            f"{reference!r} has no contract yet", subject=str(source.folder), fix=f"datakit contract pull {reference}"
        )
    return stored


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _schema_line(path: Path, project: Project) -> str:
    """Keep the editor's line of an existing contract; a new one gets it where the tree holds the schemas."""
    from datakit.cli._templates import schema_line

    if path.is_file():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        return f"{first}\n" if first.startswith("# yaml-language-server:") else ""
    return schema_line(path, project.root, "contract")


def _as_json(changes: Iterable[Change]) -> list[dict[str, str | None]]:
    return [
        {"kind": str(change.kind), "column": change.column, "before": change.before, "after": change.after}
        for change in changes
    ]


def _print_changes(changes: Iterable[Change]) -> None:
    from rich.text import Text

    colours = {"+": "green", "-": "red"}
    for change in changes:
        out().print(Text(f"  {change}", style=colours.get(str(change)[0], "yellow")))


def _finish(failures: Sequence[DatakitError]) -> None:
    """Show every failure, and exit with the gravest code: configuration before access before temporary."""
    for failure in failures:
        show_error(failure)
    if failures:
        raise typer.Exit(max(failure.exit_code for failure in failures))

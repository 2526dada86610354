"""``datakit run``: one run of the run protocol, from options or from the document ``DATAKIT_RUN``."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datakit.cli._options import Environment, Json, complete_dataset, complete_warehouse
from datakit.cli._output import out, print_json, show_error, wants_json
from datakit.errors import (
    ConfigurationError,
    CredentialsNotReady,
    DatakitError,
    Interrupted,
    InvalidFile,
    NothingToDo,
    SecretUnavailable,
    TemporaryError,
    TicketError,
    UnknownName,
    UnsupportedProtocol,
)

if TYPE_CHECKING:
    from datakit.model.project import Project
    from datakit.model.run import RunReport, RunRequest


def run(
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="CONNECTION.DATASET",
            autocompletion=complete_dataset,
            help="What to load; none loads every dataset of the warehouse.",
        ),
    ] = None,
    warehouse: Annotated[
        str | None, typer.Option(metavar="NAME", autocompletion=complete_warehouse, help="Where to load it.")
    ] = None,
    environment: Environment = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read everything and rebuild the table, whatever mode and cursor say.")
    ] = False,
    slice_: Annotated[
        str | None,
        typer.Option(
            "--slice",
            metavar="plan|I/N|commit",
            help="One step of a load that several machines share, under one --run-id.",
        ),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, max=64, metavar="N", help="Connections that read slices at once.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The same for every try: what was loaded is not loaded again.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the run report goes; it is of one dataset, so --dataset is needed. "
            "[dim]Default: DATAKIT_REPORT, else /airflow/xcom/return.json[/dim]",
        ),
    ] = None,
    json_: Json = False,  # noqa: ARG001  # known from the arguments before they are parsed
) -> None:
    """Load one dataset into one warehouse, and leave a run report; without --dataset, each one the warehouse takes.

    Options win over the JSON document of the run protocol in the environment variable DATAKIT_RUN.

    --json prints the run report, of several datasets a list of them, also of those that fail, have nothing new or are
    not begun, because the warehouse or their source's credentials are not there. The exit code of several is 75 if a
    retry helps one of them, else that of the first failure, else 99 if none had anything new, else 0.
    """
    options = {
        "dataset": dataset,
        "warehouse": warehouse,
        "environment": environment,
        "full": full or None,
        "slice": slice_,
        "parallel": parallel,
        "run_id": run_id,
    }
    _log_to_stderr()
    from datakit.ingest import attempt
    from datakit.ingest.report import default_report_path
    from datakit.model.handed import with_configuration
    from datakit.model.project import Project

    report_path = report or default_report_path()
    # Whoever wants a run report, or gives a document, is an orchestrator, and its runs have one dataset.
    by_hand = not (os.environ.get("DATAKIT_RUN") or report_path)
    if by_hand and warehouse and not dataset and not slice_:
        raise typer.Exit(_run_all(warehouse, options))
    try:
        request = _request(options, report_path)
        project = Project.find()
        if request.configuration is not None:
            project = with_configuration(project, request.configuration)
    except DatakitError as refusal:
        leave_report(refusal, report_path, options)
        raise
    left, error = attempt(request, project, report_path=report_path)
    if wants_json():
        typer.echo(left.model_dump_json(indent=2))
    if error is not None:
        raise error
    if not wants_json():
        _show(left)


def leave_report(error: DatakitError, path: Path | None, options: Mapping[str, Any] | None = None) -> None:
    """Leave the report of a request that cannot be carried out, with what can be read of it.

    :param path: where the report goes; None writes none.
    :raises ConfigurationError: it cannot be written there.
    """
    from datakit.ingest import ReportDraft
    from datakit.ingest.report import check_report_path, write_report

    check_report_path(path)
    draft = ReportDraft(None)
    draft.note(**_readable(options or {}))
    report = draft.finish_with(error)
    write_report(report, path)
    if wants_json():
        typer.echo(report.model_dump_json(indent=2))


def _readable(options: Mapping[str, Any]) -> dict[str, str]:
    """Return what a request says of itself as text, however wrong the rest of it is."""
    try:
        document = json.loads(os.environ.get("DATAKIT_RUN") or "{}")
    except json.JSONDecodeError:
        document = {}
    asked: dict[str, Any] = document if isinstance(document, dict) else {}
    asked = asked | {name: value for name, value in options.items() if value is not None}
    names = ("run_id", "dataset", "warehouse", "environment", "slice")
    return {name: asked[name] for name in names if isinstance(asked.get(name), str)}


def _run_all(warehouse: str, options: dict[str, Any]) -> int:
    """Load every dataset of a warehouse, one after the other; one that fails does not keep the others from loading.

    But what the others cannot do without ends the run of them too: of all of them the environment and the warehouse, of
    those of one source its connection and its credentials.

    :returns: the exit code of the whole.
    """
    from datakit.ingest import ReportDraft, attempt
    from datakit.model.project import Project

    project = Project.find()
    options = {**options, "run_id": options["run_id"] or _new_run_id()}
    datasets = [dataset for ingest in project.warehouse(warehouse).ingest for dataset in ingest.datasets]
    requests = [_request({**options, "dataset": dataset}) for dataset in datasets]
    reports: list[RunReport] = []
    errors: list[DatakitError] = []
    not_begun = 0
    ended = _unreachable(requests[0], project)
    ended_by_source: dict[str, DatakitError] = {}
    if ended is not None:
        errors.append(ended)
        show_error(ended)
    try:
        for request in requests:
            source = request.dataset.partition(".")[0]
            if hindrance := ended or ended_by_source.get(source):
                not_begun += 1
                reports.append(ReportDraft(request).finish_with(_not_begun(request, hindrance)))
                continue
            report, error = attempt(request, project)
            reports.append(report)
            if error is None:
                if not wants_json():
                    _show(report)
                continue
            errors.append(error)
            show_error(error)
            if isinstance(error, Interrupted):
                ended = error
            elif not isinstance(error, NothingToDo) and (ended := _unreachable(request, project)):
                if type(ended) is not type(error):  # else it was said just now
                    errors.append(ended)
                    show_error(ended)
            elif _is_of_source(error, source, request, project):
                ended_by_source[source] = error
    finally:
        if wants_json():
            print_json([report.model_dump(mode="json") for report in reports])
    loaded = sum(report.status in ("loaded", "already_loaded") for report in reports)
    if (not_begun or isinstance(ended, Interrupted)) and not wants_json():
        typer.echo(f"{loaded} of {len(requests)} datasets loaded, {not_begun} not begun", err=True)
    return _exit_code(errors, loaded=loaded > 0)


def _unreachable(request: RunRequest, project: Project) -> DatakitError | None:
    """Look whether the warehouse answers, whatever the dataset; return why not."""
    from datakit.model.load import TableName
    from datakit.warehouses import open_warehouse

    try:
        config = project.warehouse(request.warehouse)
        connection, where = project.warehouse_connection(project.environment(request.environment), config)
        with closing(open_warehouse(config.type, connection, where=where, base=project.root)) as warehouse:
            table = TableName(config.table_schema, request.dataset.partition(".")[2])
            warehouse.find_load(request.run_id, request.dataset, table)  # what every run asks first
    except DatakitError as error:
        return error
    return None


def _is_of_source(error: DatakitError, source: str, request: RunRequest, project: Project) -> bool:
    """Whether the next dataset of that source would fail the same way, after the same wait; the warehouse answers."""
    if isinstance(error, UnknownName):
        return source not in project.environment(request.environment).sources
    return isinstance(error, CredentialsNotReady | SecretUnavailable | TicketError)


def _not_begun(request: RunRequest, error: DatakitError) -> DatakitError:
    cause = f"{error.subject}: {error.what}" if error.subject else error.what
    return type(error)("not begun", subject=request.dataset, cause=cause, fix=error.fix)


def _exit_code(errors: list[DatakitError], *, loaded: bool) -> int:
    """Return 75 if a retry helps one of the datasets, else the first failure's, else 99 if nothing was loaded."""
    failures = [error for error in errors if not isinstance(error, NothingToDo)]
    if any(error.retryable for error in failures):
        return TemporaryError.exit_code
    if failures:
        return failures[0].exit_code
    return NothingToDo.exit_code if errors and not loaded else 0


def _new_run_id() -> str:
    return f"manual-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _request(options: dict[str, Any], report_path: Path | None = None) -> RunRequest:
    """Return what the options and ``DATAKIT_RUN`` ask for.

    :param report_path: where the report goes, for the message.
    :raises UnsupportedProtocol: the document has another major version.
    :raises ConfigurationError: something is missing or wrong.
    """
    from datakit.model.run import RunRequest
    from datakit.model.yaml import validate

    given = {name: value for name, value in options.items() if value is not None}
    document = os.environ.get("DATAKIT_RUN")
    request = {**(_read_document(document) if document else {}), **given}
    for name in ("warehouse", "dataset"):
        if not request.get(name):
            raise ConfigurationError(
                f"no {name} is given",
                subject="datakit run",
                cause=_why_one(request, report_path) if name == "dataset" else None,
                fix=f"add --{name} NAME, or set DATAKIT_RUN to a document of the run protocol",
            )
    if not request.get("run_id"):
        if document:
            raise InvalidFile(
                "the document does not name its run",
                subject="DATAKIT_RUN",
                cause="without run_id, a retry would be another run and load everything again",
                fix='add "run_id", the same for every try of one run',
            )
        if request.get("slice"):
            raise ConfigurationError(
                "a sliced load needs a run id",
                subject="datakit run --slice",
                cause="every step of the load has to name the same run, or the steps do not find each other",
                fix="add --run-id ID, the same for plan, every slice and commit",
            )
        request["run_id"] = _new_run_id()
    return validate(request, RunRequest, "DATAKIT_RUN" if document else "datakit run")


def _why_one(request: dict[str, Any], report_path: Path | None) -> str | None:
    """Return why this run cannot be of every dataset of the warehouse."""
    if request.get("slice"):
        return "a slice is of one dataset"
    return f"a run report is of one dataset, and one is to go to {report_path}" if report_path else None


def _read_document(text: str) -> dict[str, Any]:
    from datakit.model.run import PROTOCOL

    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidFile(
            f"the document is not JSON: {error.msg}", subject=f"DATAKIT_RUN:{error.lineno}:{error.colno}"
        ) from None
    if not isinstance(document, dict):
        raise InvalidFile("the document is no JSON object", subject="DATAKIT_RUN")
    spoken = document.get("protocol")
    if not isinstance(spoken, str):
        raise InvalidFile(
            "the document does not say its protocol version", subject="DATAKIT_RUN", fix=f'add "protocol": "{PROTOCOL}"'
        )
    if spoken.partition(".")[0] != PROTOCOL.partition(".")[0]:
        raise UnsupportedProtocol(
            f"the document speaks version {spoken} of the run protocol, this datakit speaks {PROTOCOL}",
            subject="DATAKIT_RUN",
            cause="orchestrator and datakit were released at different times",
            fix="use a datakit release that speaks that version, or an older orchestrator package",
        )
    return document


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            },
            ensure_ascii=False,
        )


def _log_to_stderr() -> None:
    """Log lines for people, or JSON lines where ``DATAKIT_LOG=json``."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = os.environ.get("DATAKIT_LOG", "text") == "json"
    handler.setFormatter(_JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logger = logging.getLogger("datakit")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _show(report: RunReport) -> None:
    target = f"{report.dataset} → {report.warehouse} ({report.table})"
    match report.status:
        case "already_loaded":
            line = f"{target}: run {report.run_id} is loaded already, {report.rows_written:,} rows"
        case "planned":
            line = f"{target}: {report.slices} slices planned; next: --slice I/{report.slices} --run-id {report.run_id}"
        case "staged":
            line = f"{target}: slice {report.slice} staged, {report.rows_written:,} rows in {report.seconds:.1f} s"
        case _:
            rate = f", {report.rows_per_second:,} rows/s" if report.rows_per_second else ""
            line = f"{target}: {report.rows_written:,} rows in {report.seconds:.1f} s{rate}, {report.mode}"
            if report.cursor and report.cursor.until:
                line += f", up to {report.cursor.column} {report.cursor.until}"
    out().print(line, markup=False)

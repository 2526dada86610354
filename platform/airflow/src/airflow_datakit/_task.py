"""What a datakit's task is in every runtime: its arguments, its specification, its document and what became of it.

A runtime is a subclass of this and of Airflow's real operator. It renders the specification into that operator's
arguments; everything that is not about containers or processes is here, once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    XCOM_RETURN_KEY,
    AirflowException,
    Asset,
    BaseOperator,
    XComArg,
)
from datakit.errors import ConfigurationError
from datakit.model.run import RunRequest
from datakit.model.specification import RunSpec, specify
from datakit.model.yaml import validate

from airflow_datakit._links import RunReportLink
from airflow_datakit._outcome import Report, conclude
from airflow_datakit._tree import chosen_environment, chosen_project
from airflow_datakit.assets import asset_of
from airflow_datakit.runtimes._lines import Lines
from airflow_datakit.runtimes._places import KRB5_CONF

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

_LONGEST_RUN_ID = 250
NEEDED = ("datakit", "dataset", "warehouse")
NAMES = (*NEEDED, "version", "resource_class")
_EXAMPLES = dict(zip(NAMES, ("sqlserver-bronze", "airline.flights", "finance", "1.2.3", "large"), strict=True))
_REQUEST = ("slice", "full", "parallel")
OWN_ARGUMENTS = frozenset({*NAMES, *_REQUEST, "variables", "home"})
"""The arguments of a datakit's task that are not every operator's."""


class DatakitTask(BaseOperator):
    """A task that runs a datakit. Made by :class:`~airflow_datakit.operator.DatakitOperator`, never by hand.

    :param datakit: the bronze datakit's name.
    :param dataset: ``CONNECTION.DATASET``.
    :param warehouse: the warehouse's name.
    :param version: another version than the pinned one, which has to be pinned for another warehouse, or the tree's.
    :param slice: ``plan``, ``INDEX/COUNT`` or ``commit``, for a load that several tasks share (templated).
    :param full: read everything and rebuild the table (templated).
    :param parallel: connections that read at once, 1 to 64 (templated).
    :param resource_class: how much it may use; without it the environment's default.
    :param variables: values of the variables that the environment declares.
    :param home: the tree, where it is another than this Airflow's.
    """

    template_fields: Sequence[str] = ("request",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"request": "json"}
    operator_extra_links = (RunReportLink(),)
    shallow_copy_attrs = ("spec",)
    ui_color = "#e3f0ec"
    hands_over: ClassVar[bool] = True
    """Whether warehouse and environment travel with the request, because the datakit's image has neither."""
    told_to_end = False
    """Whether Airflow said that this task is to end; it may say so before there is anything that could be."""

    def __init__(
        self,
        *,
        datakit: str,
        dataset: str,
        warehouse: str,
        version: str | None = None,
        slice: str | None = None,  # noqa: A002  # the run protocol's word
        full: bool | str = False,
        parallel: int | str | None = None,
        resource_class: str | None = None,
        variables: Mapping[str, str] | None = None,
        home: str | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown(kwargs)
        spec = specified(
            {
                "datakit": datakit,
                "dataset": dataset,
                "warehouse": warehouse,
                "version": version,
                "slice": slice,
                "full": full,
                "parallel": parallel,
                "resource_class": resource_class,
                "variables": variables,
                "home": home,
            }
        )
        if slice in (None, "commit"):
            kwargs["outlets"] = with_asset(spec, kwargs.get("outlets"))
        super().__init__(**{**self.rendered(spec), **kwargs})
        self.spec = spec
        self.request = dict(spec.request)
        self.report: Report | None = None

    @classmethod
    def rendered(cls, spec: RunSpec) -> dict[str, Any]:
        """Return the real operator's arguments for a specification."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """The run, for people."""
        return f"{self.spec.datakit} {self.spec.version}: {self.spec.dataset} to {self.spec.warehouse.name}"

    def document(self, context: Context) -> RunRequest:
        """Return the run protocol's request of this try, which is the same in each.

        :raises ConfigurationError: a template was rendered to something that the protocol does not know.
        """
        run = context["dag_run"]
        return validate(
            {
                **{name: _rendered_value(name, value) for name, value in self.request.items()},
                "run_id": run_id_of(self.dag_id, run.run_id),
                "configuration": self.spec.configuration if self.hands_over else None,
                "data_interval": {"start": run.data_interval_start, "end": run.data_interval_end},
            },
            RunRequest,
            f"task {self.task_id}",
        )

    def variables_for(
        self, context: Context, *, report: str, tickets: str, secrets: str, krb5_conf: str | None = None
    ) -> dict[str, str]:
        """Return the environment variables of the datakit: those of the run protocol, and the environment's own.

        :param report: where the datakit writes its report.
        :param tickets: the folder of credential caches, as the datakit sees it; ``secrets`` likewise.
        :param krb5_conf: Kerberos' configuration, where it is not the one that the sidecar publishes.
        """
        variables = {
            **self.spec.environment.env,
            "DATAKIT_RUN": self.document(context).model_dump_json(exclude_none=True),
            "DATAKIT_REPORT": report,
            "DATAKIT_SECRETS": secrets,
            "DATAKIT_TICKETS": tickets,
            "DATAKIT_LOG": "json",
        }
        if self.spec.ccache_name:
            variables["KRB5CCNAME"] = f"FILE:{tickets}/{self.spec.ccache_name}"
            variables["KRB5_CONFIG"] = krb5_conf or f"{tickets}/{KRB5_CONF}"
        return variables

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Return what OpenLineage wants to know before the run: its input and its output."""
        from airflow_datakit._lineage import lineage

        return lineage(self.spec, None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002  # its interface
        """Return input and output with their rows, and the error of a run that failed."""
        from airflow_datakit._lineage import lineage

        return lineage(self.spec, self.report)

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    def on_kill(self) -> None:
        """Remember that this task is to end."""
        self.told_to_end = True

    def refuse_to_begin(self) -> None:
        """Stop here if the task was told to end.

        :raises AirflowException: it was.
        """
        if self.told_to_end:
            raise AirflowException(f"{self.title} was told to end before it began; nothing was loaded")

    def log_line(self, line: str) -> None:
        """Write one line of the datakit into the task's log, at the level that the datakit gave it."""
        level, message = parse_line(line)
        getattr(self.log, level)("%s", message)

    def log_lines(self, lines: Lines) -> None:
        """Write every line that there is into the task's log."""
        while (line := lines.take()) is not None:
            self.log_line(line)

    def finish(
        self, context: Context, exit_code: int, report: Report | None, problem: str | None, hint: str | None = None
    ) -> Report:
        """Return the report of a run that succeeded; of any other, keep it as XCom and raise.

        :raises AirflowException: or one of its subclasses, as :func:`airflow_datakit._outcome.conclude` has it.
        """
        self.report = report
        if exit_code != 0 and report is not None and self.do_xcom_push:
            try:
                context["ti"].xcom_push(XCOM_RETURN_KEY, report)
            except Exception as error:  # noqa: BLE001  # whatever Airflow's API has, the verdict matters more
                self.log.warning("the run report cannot be kept as XCom: %s", error)
        return conclude(exit_code, report, problem, what=self.title, hint=hint)


def specified(arguments: Mapping[str, Any]) -> RunSpec:
    """Return the specification of a task's arguments, in the environment that was chosen.

    :raises ConfigurationError: something that the task names is not there, or cannot be.
    """
    for name in NAMES:
        if _is_template(value := arguments.get(name)):
            raise ConfigurationError(
                f"{name} is only known when the task runs, and has to be known when the DAG is parsed",
                subject=str(value),
                fix=f"write the name itself, or map over it: .partial(…).expand({name}=[…])",
            )
        if not isinstance(value, str) and (value is not None or name in NEEDED):
            raise ConfigurationError(
                f"{name} is {value!r}, which is no text",
                subject="DatakitOperator",
                fix=f'write a name in quotes, such as {name}="{_EXAMPLES[name]}"',
            )
    project = chosen_project(arguments.get("home"))
    asked = {name: arguments[name] for name in (*NAMES, *_REQUEST, "variables") if name in arguments}
    spec = specify(project, chosen_environment(project), resources=asked.pop("resource_class", None), **asked)
    given = {
        name: spec.request[name] for name in _REQUEST if name in spec.request and not _is_template(spec.request[name])
    }
    if given:  # the names were looked up already
        names = {"dataset": spec.dataset, "warehouse": spec.warehouse.name, "run_id": "parsed"}
        validate({**names, **given}, RunRequest, f"{spec.dataset} to {spec.warehouse.name}")
    return spec


def with_asset(spec: RunSpec, outlets: Any) -> list[Any]:
    """Return a task's outlets with the bronze table that it loads."""
    own = list(outlets) if isinstance(outlets, list | tuple) else [outlets] if outlets else []
    asset = asset_of(spec)
    # by what Airflow knows an asset by; comparing two whole ones costs more than making them
    there = any(isinstance(other, Asset) and (other.name, other.uri) == (asset.name, asset.uri) for other in own)
    return own if there else [*own, asset]


def refuse_unknown(kwargs: Mapping[str, Any]) -> None:
    """Refuse an argument that is neither the datakit's nor every operator's: how a datakit runs, the environment says.

    :raises ConfigurationError: names the nearest argument there is.
    """
    known = _base_arguments()
    if isinstance(kwargs.get("resources"), str):
        raise ConfigurationError(
            "resources is Airflow's own argument, and takes no name of a class",
            subject="DatakitOperator",
            cause="did you mean 'resource_class'?",
            fix=f"write resource_class={kwargs['resources']!r}",
        )
    for name in kwargs:
        if name not in known and not name.startswith("_"):
            near = get_close_matches(name, [*known, *OWN_ARGUMENTS], n=1, cutoff=0.7)
            raise ConfigurationError(
                f"a datakit's task has no argument {name!r}",
                subject="DatakitOperator",
                cause=f"did you mean {near[0]!r}?" if near else "it belongs to one runtime, and a DAG runs in all",
                fix="correct it, or let the platform team set it in the environment",
            )


def run_id_of(dag_id: str, run_id: str) -> str:
    """Return the run protocol's run id of a DAG run: the same for every task, try and slice of it."""
    text = f"{dag_id}/{run_id}"
    if len(text) <= _LONGEST_RUN_ID:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[: _LONGEST_RUN_ID - 17]}~{digest}"


def parse_line(line: str) -> tuple[str, str]:
    """Return level and message of a datakit's log line; one that is not JSON is information, as it stands."""
    if line.startswith("{"):
        try:
            entry = json.loads(line)
        except ValueError:
            return "info", line
        if isinstance(entry, dict) and isinstance(entry.get("message"), str):
            level = str(entry.get("level", "info"))
            return (level if level in {"debug", "info", "warning", "error", "critical"} else "info"), entry["message"]
    return "info", line


@cache
def _base_arguments() -> frozenset[str]:
    return frozenset(signature(BaseOperator.__init__).parameters) - {"self", "kwargs"} | {"default_args"}


def _is_template(value: Any) -> bool:
    return ("{{" in value or "{%" in value) if isinstance(value, str) else isinstance(value, XComArg)


def _rendered_value(name: str, value: Any) -> Any:
    """Return what a rendered text means: templates give text, also for numbers and truth."""
    if name == "full" and isinstance(value, str):
        return value.strip()  # the protocol knows which words mean yes and no
    if name == "parallel" and isinstance(value, str):
        return int(value) if value.strip().isdigit() else value
    return value

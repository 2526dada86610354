"""DAGs from ``warehouse.yaml``: who gets what, and how often, is written there, so nobody has to write it again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from airflow.sdk import DAG
from datakit.errors import ConfigurationError
from datakit.model.project import Project

from airflow_datakit._tree import chosen_environment, chosen_project
from airflow_datakit.operator import DatakitOperator

_BEGINNING: Final = datetime(2024, 1, 1, tzinfo=UTC)
"""Airflow wants a start; what a load reads, its cursor decides."""

_WORDS: Final = {"@": "", "*": "x", "-": "to", ",": "and", "/": "per", "#": "nth", "?": "any"}
"""What ids cannot hold of a cron expression, in words."""


def dags_from_warehouses(
    path: str | Path | None = None,
    *,
    warehouses: Iterable[str] | None = None,
    tags: Iterable[str] = (),
    **dag_arguments: Any,
) -> dict[str, DAG]:
    """Return a DAG for each warehouse and schedule, by id, with a task for each dataset. A DAG file is one line::

        globals().update(dags_from_warehouses())

    :param path: the tree; without it the one that this Airflow works with.
    :param warehouses: only these; without it all that the environment has a connection for. A DAG file for each keeps
        a mistake in one from hiding the others: what cannot be read elsewhere in the tree is then no error.
    :param tags: further tags; ``datakit`` and the warehouse's name are tags anyway.
    :param dag_arguments: for Airflow's DAG, such as ``default_args``; by default nothing is caught up and one run is
        active at a time.
    :raises ConfigurationError: as :meth:`~airflow_datakit.operator.DatakitOperator.create`; or ``warehouses`` or
        ``tags`` is one text.
    :raises InvalidFile: a file of the tree cannot be read, or that of a warehouse in ``warehouses``.
    """
    _refuse_text("warehouses", warehouses)
    _refuse_text("tags", tags)
    tags = tuple(tags)  # every DAG has them, and an iterator gives them once
    project = chosen_project(path)
    if warehouses is None and project.broken:
        raise project.broken[0]
    names = _of_environment(project) if warehouses is None else warehouses
    dags: dict[str, DAG] = {}
    for name in names:
        for schedule, ingests in _by_schedule(project, name).items():
            dag_id = f"{name}_{_slug(schedule)}"
            dags[dag_id] = _dag(dag_id, name, schedule, ingests, path, tags, dag_arguments)
    return dags


def _refuse_text(argument: str, value: Iterable[str] | None) -> None:
    if isinstance(value, str):  # its letters would be the names
        raise ConfigurationError(
            f"{argument} is the text {value!r}, and has to be a list of texts",
            subject="dags_from_warehouses",
            fix=f'write it in brackets: {argument}=["{value}"]',
        )


def _of_environment(project: Project) -> Iterable[str]:
    environment = project.environment(chosen_environment(project))
    if found := project.warehouses_in(environment):
        return found
    wanted = sorted({config.connection for config in project.warehouses().values()})
    raise ConfigurationError(
        f"no warehouse of the tree is in the environment {environment.name!r}",
        subject=project.environment_files[environment.name].where("warehouses"),
        cause=f"it has none of the connections that warehouses name: {', '.join(wanted) or 'there is no warehouse'}",
        fix="add the connection of each warehouse that this environment loads",
    )


def _dag(
    dag_id: str,
    warehouse: str,
    schedule: str | None,
    ingests: list[tuple[str, str]],
    path: str | Path | None,
    tags: Iterable[str],
    arguments: dict[str, Any],
) -> DAG:
    chosen = {"start_date": _BEGINNING, "catchup": False, "max_active_runs": 1, **arguments}
    home = {} if path is None else {"home": str(path)}
    with DAG(dag_id, schedule=schedule, tags=["datakit", warehouse, *tags], **chosen) as dag:
        for datakit, dataset in ingests:
            DatakitOperator.create(dataset, datakit=datakit, dataset=dataset, warehouse=warehouse, **home)
    return dag


def _by_schedule(project: Project, name: str) -> dict[str | None, list[tuple[str, str]]]:
    found: dict[str | None, list[tuple[str, str]]] = {}
    for ingest in project.warehouse(name).ingest:
        schedule = None if ingest.schedule is None else " ".join(ingest.schedule.split())
        found.setdefault(schedule, []).extend((ingest.datakit, dataset) for dataset in ingest.datasets)
    return found


def _slug(schedule: str | None) -> str:
    """Return a schedule as part of a DAG's id: as short as it can be while no two schedules share one."""
    if schedule is None:
        return "by_hand"
    # */5 is x_5, and so are the two fields * 5. With five fields, a sixth word says that the first x_5 is a step; where
    # it is not, the step has a word of its own. A sixth field would look like a step, so six stand further apart
    step = "xper" if re.search(r"\* \d.*\*/", schedule) else "x_"
    between = "_" if schedule.count(" ") < 5 else "__"
    words = {**_WORDS, "*/": step, " ": between}
    return re.sub(r"\*/|\W", lambda found: words.get(found[0], "_"), schedule)

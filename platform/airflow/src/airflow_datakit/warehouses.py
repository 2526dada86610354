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
    :param warehouses: only these; without it all that the environment has a connection for. A file for each keeps a
        mistake in one from hiding the others.
    :param tags: further tags; ``datakit`` and the warehouse's name are tags anyway.
    :param dag_arguments: for Airflow's DAG, such as ``default_args``; by default nothing is caught up and one run is
        active at a time.
    :raises ConfigurationError: as :meth:`~airflow_datakit.operator.DatakitOperator.create`.
    """
    project = chosen_project(path)
    if project.broken:
        raise project.broken[0]
    names = _of_environment(project) if warehouses is None else warehouses
    dags: dict[str, DAG] = {}
    for name in names:
        for schedule, ingests in _by_schedule(project, name).items():
            dag_id = f"{name}_{_slug(schedule)}"
            if dag_id in dags:
                raise ConfigurationError(
                    f"two schedules of warehouse {name!r} would be one DAG, {dag_id}",
                    subject=project.warehouse_files[name].where("ingest"),
                    fix="write them alike",
                )
            dags[dag_id] = _dag(dag_id, name, schedule, ingests, path, tags, dag_arguments)
    return dags


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
        found.setdefault(ingest.schedule, []).extend((ingest.datakit, dataset) for dataset in ingest.datasets)
    return found


def _slug(schedule: str | None) -> str:
    return re.sub(r"\W+", "_", schedule.replace("*", "x")).strip("_") if schedule else "by_hand"

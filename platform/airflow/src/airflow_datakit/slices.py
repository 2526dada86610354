"""One large table, loaded by many tasks: plan, load each slice on its own, commit all of them together."""

from __future__ import annotations

from typing import Any, cast

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import TaskGroup, task
from datakit.errors import ConfigurationError

from airflow_datakit._task import OWN_ARGUMENTS
from airflow_datakit.operator import DatakitOperator

_PLAN_ONLY = ("parallel", "trigger_rule")
_COMMIT_ONLY = ("outlets",)


def ingest_slices(
    group_id: str,
    *,
    datakit: str,
    dataset: str,
    warehouse: str,
    at_once: int | None = None,
    **arguments: Any,
) -> TaskGroup:
    """Return a group of tasks that loads one dataset slice by slice.

    ``plan`` cuts the dataset and stores the plan in the warehouse, ``load`` is one task for each slice, retried on its
    own, and ``commit`` makes them visible together, once. If there is nothing new, all of them are skipped; if the DAG
    run has committed already, all after ``plan`` are.

    :param at_once: how many slices load at the same time in one run; None leaves it to Airflow's pools.
    :param arguments: as for :meth:`~airflow_datakit.operator.DatakitOperator.create`, for every task of the group;
        ``parallel`` reaches the plan alone, which makes at least that many slices where the dataset is large enough,
        ``trigger_rule`` too, which says when the group begins, ``outlets`` the commit.
    :raises ConfigurationError: as :meth:`~airflow_datakit.operator.DatakitOperator.create`.
    """
    if "slice" in arguments:
        raise ConfigurationError(
            "ingest_slices chooses the slices itself",
            subject=group_id,
            fix="leave slice away, or write DatakitOperator.create(…, slice=…) for one step of a load",
        )
    names = {"datakit": datakit, "dataset": dataset, "warehouse": warehouse}
    every = {key: value for key, value in arguments.items() if key not in (*_PLAN_ONLY, *_COMMIT_ONLY)}
    airflows = {key: value for key, value in every.items() if key not in OWN_ARGUMENTS}
    plan_only = {key: arguments[key] for key in _PLAN_ONLY if key in arguments}
    commit_only = {key: arguments[key] for key in _COMMIT_ONLY if key in arguments}
    with TaskGroup(group_id) as group:
        plan = DatakitOperator.create("plan", **names, **every, **plan_only, slice="plan")
        slices = task(task_id="slices", **airflows)(slices_of)(cast("dict[str, Any]", plan.output))
        load = DatakitOperator.partial("load", **names, **every, max_active_tis_per_dagrun=at_once)
        commit = DatakitOperator.create("commit", **names, **every, **commit_only, slice="commit")
        load.expand(slice=slices) >> commit
    return group


def slices_of(report: dict[str, Any]) -> list[str]:
    """Return the slices that a plan's run report has, as the run protocol writes them: ``1/3``, ``2/3``, ``3/3``.

    :raises AirflowSkipException: the run was committed before, so there is nothing to cut and nothing left to load.
    """
    if report.get("status") == "already_loaded":
        raise AirflowSkipException(
            "this DAG run has committed the table already, so no slice is left to load\n"
            "Next step: none; to load what is new since, trigger a new run"
        )
    count = int(report["slices"])
    return [f"{index}/{count}" for index in range(1, count + 1)]

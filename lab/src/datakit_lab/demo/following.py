"""DAG runs, followed as they go: what becomes of their tasks, and what datakits write into the tasks' logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from datakit_lab.demo.airflow import Airflow, Run
from datakit_lab.errors import LabError

_POLL_SECONDS: Final = 0.5
_SECONDS: Final = 600
_ENDED: Final = frozenset({"success", "failed"})
_TOLD: Final = {"success": "done", "failed": "FAILED", "skipped": "skipped: nothing is new", "up_for_retry": "retries"}


def follow(airflow: Airflow, runs: Sequence[Run], say: Callable[[str, str], None]) -> list[dict[str, Any]]:
    """Tell what happens in these runs until all have ended; return the run reports of their tasks.

    :param say: is told a task's name, ``WAREHOUSE/DATASET``, and what it does or writes.
    :raises LabError: a task failed, or they took too long.
    """
    deadline = time.monotonic() + _SECONDS
    states: dict[tuple[Run, str], str] = {}
    told: dict[tuple[Run, str, int], int] = {}
    while True:
        ended = all(airflow.state(run) in _ENDED for run in runs)
        for run in runs:
            for task in airflow.tasks(run):
                place, state = (run, task["task_id"]), str(task["state"])
                name = f"{run.dag.partition('_')[0]}/{task['task_id']}"
                if state in {"running", *_TOLD} and (state != "running" or states.get(place) != "success"):
                    for line in _new_lines(airflow, run, task, told):
                        say(name, line)
                if states.get(place) != state and state in _TOLD:
                    say(name, _TOLD[state])
                states[place] = state
        if ended:
            break
        if time.monotonic() > deadline:
            raise LabError(f"the DAGs did not end within {_SECONDS} s", fix=f"look at them: {airflow.url}")
        time.sleep(_POLL_SECONDS)
    if failed := [task for (_, task), state in states.items() if state == "failed"]:
        raise LabError(f"{', '.join(failed)} failed", fix="read the lines above")
    found = (airflow.report(run, task) for run, task in states)
    return [report for report in found if report is not None]


def _new_lines(
    airflow: Airflow, run: Run, task: dict[str, Any], told: dict[tuple[Run, str, int], int]
) -> Iterator[str]:
    """Yield what the datakit has written since the last look: its operator's logger has its lines."""
    key = (run, task["task_id"], task["try_number"])
    written = [entry["event"] for entry in airflow.log(run, task) if "airflow_datakit" in str(entry.get("logger"))]
    yield from written[told.get(key, 0) :]
    told[key] = len(written)

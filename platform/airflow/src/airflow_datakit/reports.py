"""``datakit-reports FOLDER``: the run reports that tasks left as XComs, as files for ``datakit audit`` and ``drift``.

It reads Airflow's own database, so it runs where Airflow does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from airflow.models.xcom import XComModel
from airflow.providers.common.compat.sdk import XCOM_RETURN_KEY
from airflow.utils.session import create_session
from datakit.errors import ConfigurationError
from sqlalchemy import select


def export_reports(folder: Path, *, dag: str | None = None) -> int:
    """Write every run report into a folder, one file for each task; return how many there are.

    :param dag: only those of this DAG.
    :raises ConfigurationError: the folder cannot be written.
    """
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place, report in _reports(dag):
            name = sha256("/".join(place).encode()).hexdigest()[:24]
            (folder / f"{name}.json").write_text(json.dumps(report), encoding="utf-8")
            count += 1
    except OSError as error:
        raise ConfigurationError(
            f"the run reports cannot be written: {error.strerror}",
            subject=str(folder),
            fix="name a folder that this account may write",
        ) from None
    return count


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="datakit-reports", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where they go; what is there stays")
    parser.add_argument("--dag", help="only the reports of this DAG")
    chosen = parser.parse_args(arguments)
    try:
        count = export_reports(chosen.folder, dag=chosen.dag)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write(f"{count} run report{'' if count == 1 else 's'} in {chosen.folder}\n")


def _reports(dag: str | None) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    query = select(XComModel).where(XComModel.key == XCOM_RETURN_KEY)
    if dag is not None:
        query = query.where(XComModel.dag_id == dag)
    with create_session() as session:
        for found in session.scalars(query.execution_options(yield_per=1000)):
            value = XComModel.deserialize_value(found)
            if isinstance(value, dict) and {"protocol", "status", "run_id"} <= value.keys():  # else another operator's
                yield (found.dag_id, found.run_id, found.task_id, str(found.map_index)), value

"""Our engine, all guarantees on: what ``datakit run`` does with a source datakit, a bronze datakit and a warehouse."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Final

from datakit.ingest import run
from datakit.model import yaml
from datakit.model.project import Project
from datakit.model.run import RunRequest
from datakit.sources import open_source

from benchmarks.contenders import job as work

_USED_LATER: Final = {
    target: ("mssql_python", "pyarrow.compute", "datakit.sources.sqlserver", *adapter)
    for target, adapter in {
        "duckdb": ("duckdb", "datakit.warehouses.duckdb", "datakit.warehouses._duckdb.warehouse"),
        "postgres": ("pgpq", "psycopg", "datakit.warehouses.postgres", "datakit.warehouses._postgres.warehouse"),
    }.items()
}
"""What the engine imports at first use; imported before the clock runs, as with everybody else."""

_SOURCE = """\
kind: source
name: tpch-source
version: 1.0.0
system: sqlserver
connection: tpch
datasets:
  {table}:
    table: dbo.{table}
    slices: {{column: l_orderkey, rows: 100000000}}
"""
_BRONZE = """\
kind: bronze
name: sqlserver-bronze
version: 1.0.0
system: sqlserver
sources: [{datakit: tpch-source}]
"""
_WAREHOUSE = """\
name: bench
type: {target}
connection: bench
schema: bronze
ingest:
  - datakit: sqlserver-bronze
    datasets: [tpch.{table}]
    mode: replace
"""
_ENVIRONMENT = """\
name: local
runtime: process
sources:
  tpch:
    host: {job.host}
    port: {job.port}
    database: {job.database}
    encrypt: "no"
    user: {job.user}
    password: source/password
warehouses:
  bench: {{{warehouse}}}
"""


def prepare(job: work.Job) -> Project:
    """Write the tree, its secrets and, as ``datakit contract pull`` does, the contract; not timed."""
    root = Path(job.work_folder)
    if job.target == "duckdb":
        warehouse = f"path: {job.duckdb_file}"
    else:
        assert job.postgres
        warehouse = (
            f"host: {job.postgres['host']}, port: {job.postgres['port']}, database: {job.postgres['dbname']}, "
            f"user: {job.postgres['user']}, password: warehouse/password"
        )
        _write(root / "secrets/warehouse/password", job.postgres["password"])
    _write(root / "secrets/source/password", job.password)
    _write(root / "datakits/tpch-source/datakit.yaml", _SOURCE.format(table=job.table))
    _write(root / "datakits/sqlserver-bronze/datakit.yaml", _BRONZE)
    _write(root / "warehouses/bench/warehouse.yaml", _WAREHOUSE.format(target=job.target, table=job.table))
    _write(root / "warehouses/environments/local.yaml", _ENVIRONMENT.format(job=job, warehouse=warehouse))
    os.environ["DATAKIT_SECRETS"] = str(root / "secrets")

    project = Project.find(root)
    _, _, dataset, _ = project.dataset(f"tpch.{job.table}")
    source = project.sources()["tpch-source"]
    system, where = project.source_system(project.environment("local"), source)
    live = open_source("sqlserver", system, where=where, base=str(source.folder))
    try:
        _write(source.contract_path(job.table), yaml.write(live.describe(f"tpch.{job.table}", dataset)))
    finally:
        live.close()
    return Project.find(root)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Prepare, then load."""
    job = work.read()
    for module in _USED_LATER[str(job.target)]:
        importlib.import_module(module)
    project = prepare(job)

    def load() -> int:
        request = RunRequest(
            run_id="bench-1",
            dataset=f"tpch.{job.table}",
            warehouse="bench",
            environment="local",
            parallel=job.options["connections"],
        )
        return run(request, project).rows_written

    work.timed(load)


if __name__ == "__main__":
    main()

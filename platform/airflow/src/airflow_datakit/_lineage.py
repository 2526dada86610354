"""What a run reads and writes, as OpenLineage names it; imported by its listener alone, and only where it is installed.

Names of data sets: https://openlineage.io/docs/spec/naming.
"""

from __future__ import annotations

import re
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from datakit.model.specification import RunSpec
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    error_message_run,
    input_statistics_input_dataset,
    output_statistics_output_dataset,
    schema_dataset,
)

from airflow_datakit._outcome import Report


def lineage(spec: RunSpec, report: Report | None) -> OperatorLineage[Any, Any]:
    """Return the run's input and output; with rows, bytes and error once there is a report."""
    return OperatorLineage(
        inputs=[_input(spec, report)],
        outputs=[_output(spec, report)],
        run_facets=_error(report),
    )


def _input(spec: RunSpec, report: Report | None) -> InputDataset:
    place = spec.environment.sources[spec.connection]
    table = spec.definition.table or spec.dataset.partition(".")[2]
    facets: dict[str, Any] = {}
    if spec.contract is not None:
        facets["schema"] = schema_dataset.SchemaDatasetFacet(
            fields=[
                schema_dataset.SchemaDatasetFacetFields(name=column.name, type=column.source_type or str(column.type))
                for column in spec.contract.columns
            ]
        )
    statistics: dict[str, Any] = {}
    if report is not None and report.get("rows_read") is not None:
        statistics["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            rowCount=report["rows_read"], size=report.get("bytes")
        )
    return InputDataset(
        namespace=f"mssql://{place.host}:{place.port}",
        name=f"{place.database}.{re.sub(r'[][]', '', table)}",
        facets=facets,
        inputFacets=statistics,
    )


def _output(spec: RunSpec, report: Report | None) -> OutputDataset:
    statistics: dict[str, Any] = {}
    if report is not None and report.get("rows_written") is not None:
        statistics["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=report["rows_written"]
        )
    namespace, name = _place(spec)
    return OutputDataset(namespace=namespace, name=name, outputFacets=statistics)


def _place(spec: RunSpec) -> tuple[str, str]:
    """Return namespace and name of the warehouse's table."""
    section = spec.environment.warehouses[spec.warehouse.connection]
    if spec.warehouse.type == "postgres":
        return f"postgres://{section['host']}:{section.get('port', 5432)}", f"{section['database']}.{spec.table}"
    if spec.warehouse.type == "duckdb":
        return "file", f"{section['path']}/{spec.table}"
    return f"{spec.warehouse.type}://{spec.warehouse.connection}", spec.table


def _error(report: Report | None) -> dict[str, Any]:
    error = (report or {}).get("error")
    if not isinstance(error, dict):
        return {}
    message = "\n".join(str(error[key]) for key in ("what", "subject", "cause", "fix") if error.get(key))
    return {"errorMessage": error_message_run.ErrorMessageRunFacet(message=message, programmingLanguage="python")}

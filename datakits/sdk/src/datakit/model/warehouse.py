"""``warehouse.yaml``: who gets what, and how often. Configuration only."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from datakit.model._base import Model, text_like
from datakit.model.manifest import KebabName, LoadMode, Naming, SchemaPolicy

DatasetReference = Annotated[
    str, text_like(r"^[a-z][a-z0-9-]*\.[a-z][a-z0-9_]*$", "CONNECTION.DATASET, such as airline.flights")
]
"""``CONNECTION.DATASET``, such as ``airline.flights``."""


class Ingest(Model):
    """Datasets that one bronze datakit lands in the warehouse, with overrides of the datakit's defaults."""

    datakit: Annotated[KebabName, Field(description="The bronze datakit")]
    datasets: Annotated[tuple[DatasetReference, ...], Field(min_length=1)]
    mode: LoadMode | None = None
    schedule: Annotated[str | None, Field(description="Cron expression or Airflow preset, such as @hourly")] = None
    table_schema: Annotated[
        str | None, Field(alias="schema", description="The warehouse's schema, if another than the default")
    ] = None
    naming: Naming | None = None
    row_hash: bool | None = None
    schema_changes: SchemaPolicy | None = None


class WarehouseConfig(Model):
    """One destination."""

    name: KebabName
    type: Annotated[
        str, Field(description="The adapter that writes it: duckdb, postgres, or one that a package registers")
    ]
    connection: Annotated[KebabName, Field(description="Its name in environments; where it is comes from there")]
    table_schema: Annotated[str, Field(alias="schema", min_length=1, description="The schema that tables land in")]
    ingest: Annotated[tuple[Ingest, ...], Field(min_length=1)]

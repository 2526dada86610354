"""The run protocol's two documents: the request that an orchestrator gives, and the report that a run leaves.

``docs/run-protocol.md`` explains them to people who write their own datakit without this SDK.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from datakit.model.manifest import LoadMode
from datakit.model.warehouse import DatasetReference

PROTOCOL: Final = "1.0"
_SLICE = re.compile(r"plan|commit|([1-9]\d{0,4})/([1-9]\d{0,4})")


def _check_slice(value: Any) -> Any:
    match = _SLICE.fullmatch(value) if isinstance(value, str) else None
    if value is not None and (match is None or (match[1] and int(match[1]) > int(match[2]))):
        raise ValueError(f"{value!r} is no slice: write plan, 2/4 (the second of four) or commit")
    return value


RunSlice = Annotated[str, BeforeValidator(_check_slice)]
"""``plan``, ``commit``, or ``INDEX/COUNT`` with an index from 1."""


class DataInterval(BaseModel):
    """The orchestrator's data interval; recorded in the report, it bounds nothing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    start: datetime | None = None
    end: datetime | None = None


class RunConfiguration(BaseModel):
    """What a datakit that has no tree of warehouses and environments needs of them; never a secret, only references."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    warehouse: Annotated[dict[str, Any], Field(description="The content of warehouse.yaml")]
    environment: Annotated[dict[str, Any], Field(description="The environment's name, and the connections it takes")]


class RunRequest(BaseModel):
    """What to load: the JSON document ``DATAKIT_RUN``. Unknown fields are ignored, so that minor versions may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    protocol: Annotated[str, Field(pattern=r"^\d+\.\d+$", description="Version of the run protocol, MAJOR.MINOR")] = (
        PROTOCOL
    )
    run_id: Annotated[
        str,
        Field(
            min_length=1,
            max_length=250,
            description="The same for every try of one run: what was loaded under it is never loaded twice",
        ),
    ]
    dataset: Annotated[DatasetReference, Field(description="CONNECTION.DATASET")]
    warehouse: Annotated[str, Field(description="The warehouse's name")]
    environment: Annotated[str | None, Field(description="The environment's name; none means DATAKIT_ENVIRONMENT")] = (
        None
    )
    slice: Annotated[RunSlice | None, Field(description="plan, 2/4 or commit; none loads the whole dataset")] = None
    full: Annotated[
        bool, Field(description="Read everything and rebuild the table, whatever the mode and the cursor")
    ] = False
    parallel: Annotated[int | None, Field(ge=1, le=64, description="Connections that read slices at once")] = None
    data_interval: DataInterval | None = None
    image: Annotated[str | None, Field(description="The image that runs, by digest where that is known")] = None
    configuration: Annotated[
        RunConfiguration | None, Field(description="Instead of the warehouses and environments of the datakit's tree")
    ] = None


class CursorReport(BaseModel):
    """The window of the cursor that the run read."""

    model_config = ConfigDict(frozen=True)

    column: str
    since: str | None
    until: str | None


class RunReport(BaseModel):
    """What a run did: the JSON at ``DATAKIT_REPORT`` and the XCom of the task, also after a failure."""

    model_config = ConfigDict(frozen=True)

    protocol: str = PROTOCOL
    status: Annotated[
        Literal["loaded", "already_loaded", "nothing", "planned", "staged", "failed"],
        Field(
            description="planned and staged are a sliced run's first steps; already_loaded is a retry of a finished run"
        ),
    ]
    run_id: Annotated[str | None, Field(description="None where the request could not be read; dataset likewise")] = (
        None
    )
    dataset: str | None = None
    warehouse: str | None = None
    environment: str | None = None
    table: Annotated[str | None, Field(description="SCHEMA.TABLE in the warehouse")] = None
    datakit: Annotated[str | None, Field(description="The bronze datakit, NAME@VERSION")] = None
    source_datakit: Annotated[str | None, Field(description="The source datakit, NAME@VERSION")] = None
    image: Annotated[str | None, Field(description="As the request had it")] = None
    mode: LoadMode | None = None
    slice: str | None = None
    slices: Annotated[int | None, Field(description="How many slices the plan has")] = None
    cursor: CursorReport | None = None
    data_interval: Annotated[DataInterval | None, Field(description="As the request had it")] = None
    rows_read: int = 0
    rows_written: int = 0
    rows_applied: Annotated[
        int | None, Field(description="Rows that the table got: fewer where a row changed while it was read")
    ] = None
    server_rows: Annotated[
        int | None, Field(description="The server's own count of the rows it sent; none where it cannot say")
    ] = None
    bytes: Annotated[int, Field(description="Arrow bytes read")] = 0
    schema_changes: Annotated[
        tuple[str, ...], Field(description="Changes that the policy let through, one line each")
    ] = ()
    started_at: datetime
    ended_at: datetime
    seconds: float
    rows_per_second: Annotated[int | None, Field(description="None where nothing was read")] = None
    error: Annotated[
        dict[str, Any] | None, Field(description="type, what, subject, cause, fix, exit_code, retryable")
    ] = None
    exit_code: int = 0

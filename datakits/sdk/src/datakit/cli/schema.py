"""``datakit schema``: JSON Schemas, so that editors complete and check the YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from datakit.cli._options import Json
from datakit.cli._output import out, print_json
from datakit.errors import UnknownName


def schema(
    name: Annotated[str | None, typer.Argument(help="source, bronze, contract, warehouse, environment …")] = None,
    write: Annotated[Path | None, typer.Option(metavar="DIR", help="Write every schema into this folder.")] = None,
    json_: Json = False,
) -> None:
    """Print the JSON Schema of a file, or write them all for an editor.

    Without a name, list the schemas.
    """
    from datakit.model.schemas import SCHEMAS, json_schema, write_schemas

    if write is not None:
        for path in write_schemas(write):
            out().print(str(path), markup=False)
    elif name is None:
        summaries = {known: (model.__doc__ or "").splitlines()[0].replace("``", "") for known, model in SCHEMAS.items()}
        if json_:
            print_json(summaries)
            return
        for known, summary in summaries.items():
            out().print(f"{known:<14}{summary}", markup=False)
    elif name not in SCHEMAS:
        raise UnknownName.of("schema", name, SCHEMAS)
    else:
        typer.echo(json.dumps(json_schema(name), indent=2, ensure_ascii=False))

#!/usr/bin/env python3
"""Write docs/errors.md from the tree in datakit.errors; with ``--check``, fail if the file is not current."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

from datakit.errors import DatakitError, UnknownName
from generated_page import ROOT, write_or_check

HEAD = """\
# Errors

<!-- Written by scripts/write_error_docs.py from datakit.errors. Change it there. -->

Every error says what happened, to which object, the likely cause and the next step:

```text
{example}
```

The first line names the object, then what happened. The same four parts, with the type, the exit code and whether
a retry can help, are in the run report under `error`. No part ever holds a secret.

The exit code decides what an orchestrator does: 75 is retried, 77 and 78 fail at once, 99 is skipped
([run-protocol.md](run-protocol.md)). An error that is none of these is a bug of ours and ends with 70.

"""

EXAMPLE = UnknownName.of(
    "dataset",
    "airline.flihgts",
    ["airline.airlines", "airline.airports", "airline.flights", "airline.planes", "airline.weather"],
    where="warehouses/finance/warehouse.yaml:8:18",
)


def render() -> str:
    """Return the page."""
    parts = [HEAD.format(example=EXAMPLE)]
    parts.append("| error | exit code | retry | when |\n|---|---|---|---|\n")
    parts.extend(_row(kind, depth) for kind, depth in _walk(DatakitError, -1) if kind is not DatakitError)
    return "".join(parts)


def _walk(kind: type[DatakitError], depth: int) -> Iterator[tuple[type[DatakitError], int]]:
    yield kind, depth
    for child in kind.__subclasses__():
        yield from _walk(child, depth + 1)


def _row(kind: type[DatakitError], depth: int) -> str:
    indent = "&emsp;" * depth
    summary = (inspect.getdoc(kind) or "").split("\n\n", 1)[0]
    text = re.sub(r"``([^`]+)``", r"`\1`", " ".join(summary.split()))
    retry = "yes" if kind.retryable else "no"
    return f"| {indent}`{kind.__name__}` | {kind.exit_code} | {retry} | {text} |\n"


if __name__ == "__main__":
    sys.exit(write_or_check(ROOT / "docs" / "errors.md", render(), __file__))

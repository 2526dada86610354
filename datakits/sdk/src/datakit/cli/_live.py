"""Source systems as the command line opens them: from the tree and an environment, one connection per datakit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datakit.model.project import LoadedSource, Project
    from datakit.sources import Source


@contextmanager
def opened(project: Project, source: LoadedSource, environment: str | None) -> Iterator[Source]:
    """Open the source system of a source datakit until the context ends.

    :raises DatakitError: the environment does not know it, or it cannot be reached.
    """
    from datakit.sources import open_source

    system, where = project.source_system(project.environment(environment), source)
    opened_source = open_source(
        source.manifest.system, system, isolation=source.manifest.isolation, where=where, base=str(source.folder)
    )
    try:
        yield opened_source
    finally:
        opened_source.close()

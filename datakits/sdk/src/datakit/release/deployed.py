"""Which locks the environments' Airflows were deployed with: what runs, whatever the tree pins by now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from datakit.errors import AccessDenied, ConfigurationError, TemporaryError
from datakit.model.project import Project
from datakit.release.deploying import Deployable, find_deployable
from datakit.release.deployment import REPOSITORY
from datakit.release.overlay import Overlay
from datakit.release.registry import Registry

_AT_ONCE: Final = 8


def deployed_in(
    project: Project, environments: Iterable[str], open_registry: Callable[[str], Registry] | None
) -> tuple[dict[str, Deployable], tuple[str, ...]]:
    """Return by environment the Airflow image that its GitOps file names, and notes about those that are not known.

    An environment that is deployed otherwise, or was never deployed, is left out: only its Airflow knows.

    :param open_registry: None asks no registry, and nothing is known.
    """
    if open_registry is None:
        return {}, ()
    named: dict[str, tuple[str, str]] = {}
    notes: dict[str, str] = {}
    for name in environments:
        environment = project.environment(name)
        if environment.airflow is None or environment.airflow.deploy != "gitops" or environment.registry is None:
            continue
        try:
            image = Overlay.read(project.root, environment.airflow).image
        except ConfigurationError as error:
            notes[name] = error.what
            continue
        if image is not None:
            named[name] = (environment.registry, image)

    def find(name: str) -> Deployable | None:
        reference, image = named[name]
        try:
            registry = open_registry(reference)
            ours = f"{registry.image(REPOSITORY)}@"
            if not image.startswith(ours):
                notes[name] = f"{image.partition('@')[0]} is none that datakit airflow push has made"
                return None
            return find_deployable(registry, image.removeprefix(ours), name)
        except (TemporaryError, AccessDenied, ConfigurationError) as error:
            notes[name] = error.what
            return None

    with ThreadPoolExecutor(_AT_ONCE) as workers:
        found = dict(zip(named, workers.map(find, named), strict=True))
    said = tuple(f"{name}: which Airflow runs is not known: {notes[name]}" for name in sorted(notes))
    return {name: image for name, image in found.items() if image is not None}, said

"""What an orchestrator has to know to run a datakit: looked up in the tree once, before anything runs.

Whatever is wrong with a task (a name that nobody knows, an image that is not pinned where it has to be) is found here,
without asking a registry, a database or a cluster. Nothing in it knows an orchestrator: each runtime renders it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from datakit.errors import ConfigurationError, UnknownName
from datakit.model._pod_template import read_pod_template
from datakit.model.contract import Contract
from datakit.model.environment import Environment, Resources
from datakit.model.lock import Lock, Pin, lock_path, read_lock
from datakit.model.manifest import Dataset
from datakit.model.project import LoadedBronze, Project
from datakit.model.run import PROTOCOL
from datakit.model.warehouse import Ingest, WarehouseConfig

__all__ = ["RunSpec", "specify"]

_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One load of one dataset into one warehouse, in one environment.

    :ivar home: the root of the tree.
    :ivar version: the datakit's, as the lock pins it, else as the tree has it.
    :ivar image: by digest where the lock pins one, else by the version's tag; None where processes run.
    :ivar request: the document ``DATAKIT_RUN``, but for what only a run knows: its ``run_id`` and ``data_interval``.
    :ivar configuration: what the request carries to a datakit that has no tree of warehouses and environments.
    :ivar principal: who reads the source, else who writes the warehouse, ``user@REALM``; None without Kerberos.
    :ivar labels: the environment's labels, with the task's variables in them.
    :ivar pod_template: a pod to lay ours over, with the task's variables in it.
    :ivar table: SCHEMA.TABLE in the warehouse.
    :ivar definition: the dataset as its source datakit has it; ``contract`` is None if none was pulled.
    """

    home: Path
    environment: Environment
    datakit: str
    version: str
    image: str | None
    request: Mapping[str, Any]
    configuration: Mapping[str, Any]
    principal: str | None
    resources: Resources
    labels: Mapping[str, str]
    pod_template: Mapping[str, Any] | None
    table: str
    warehouse: WarehouseConfig
    connection: str
    definition: Dataset
    contract: Contract | None

    def volumes_of(self, volumes: Mapping[str, str]) -> dict[str, str]:
        """Return those of an environment's volumes that this run wants: the one in which its warehouse is a file.

        :param volumes: name → where a container has it.
        """
        section = self.environment.warehouses[self.warehouse.connection]
        places = [f"{value}/" for value in section.values() if isinstance(value, str)]
        return {name: path for name, path in volumes.items() if any(place.startswith(f"{path}/") for place in places)}

    @property
    def dataset(self) -> str:
        """``CONNECTION.DATASET``."""
        return str(self.request["dataset"])

    @property
    def ccache_name(self) -> str | None:
        """The credential cache's name in the folder of tickets, as the sidecar names it; None without Kerberos."""
        return self.principal.rpartition("@")[0].replace("/", "_") if self.principal else None


def specify(
    project: Project,
    environment: str,
    *,
    datakit: str,
    dataset: str,
    warehouse: str,
    version: str | None = None,
    resources: str | None = None,
    variables: Mapping[str, str] | None = None,
    slice: str | None = None,  # noqa: A002  # the run protocol's word
    full: bool | str = False,
    parallel: int | None = None,
) -> RunSpec:
    """Look up everything that a task names.

    :param resources: a class of resources; None takes the environment's default.
    :param variables: values of the environment's variables.
    :param slice: as in the run protocol; like ``full``, a text that an orchestrator is still to render is kept.
    :raises UnknownName: there is no such environment, datakit, version, warehouse, dataset, class or variable.
    :raises ConfigurationError: they do not fit together, or the image is not pinned where it has to be.
    :raises InvalidFile: a file of the tree cannot be read.
    """
    place = project.environment(environment)
    project.bronze(datakit)
    config, ingest, bronze, source = project.ingest(warehouse, dataset)
    if ingest.datakit != datakit:
        raise ConfigurationError(
            f"warehouse {warehouse!r} takes {dataset} through {ingest.datakit!r}, not through {datakit!r}",
            subject=project.warehouse_files[warehouse].where("ingest"),
            fix=f"name {ingest.datakit!r}, or change the warehouse",
        )
    # looked up by name first: where a section stands is only worth finding for an error
    system = place.sources.get(source.manifest.connection) or project.source_system(place, source)[0]
    connection = place.warehouses.get(config.connection) or project.warehouse_connection(place, config)[0]
    _, name, definition, contract = project.dataset(dataset)
    release = _release(project, place, bronze, warehouse, version)
    labels, template = _substituted(project, place, variables or {})
    request = {
        "protocol": PROTOCOL,
        "dataset": dataset,
        "warehouse": warehouse,
        "environment": place.name,
        "slice": slice,
        "full": full or None,
        "parallel": parallel,
        "image": release[1],
    }
    return RunSpec(
        home=project.root,
        environment=place,
        datakit=datakit,
        version=release[0],
        image=release[1],
        request={key: value for key, value in request.items() if value is not None},
        configuration=_configuration(project, place, config, dataset, source.manifest.connection),
        principal=_principal(system.principal, connection),
        resources=_resources(project, place, resources),
        labels=labels,
        pod_template=template,
        table=f"{_schema(config, ingest)}.{name}",
        warehouse=config,
        connection=source.manifest.connection,
        definition=definition,
        contract=contract,
    )


def _configuration(
    project: Project, environment: Environment, config: WarehouseConfig, dataset: str, source: str
) -> dict[str, dict[str, Any]]:
    """Return the two files as they are written, without the datasets and connections that are not this run's.

    They travel in one environment variable, which Linux limits to 128 KiB.
    """
    place: Any = project.environment_files[environment.name].document.data
    taken = {
        "sources": {source: place["sources"][source]},
        "warehouses": {config.connection: place["warehouses"][config.connection]},
    }
    warehouse: Any = project.warehouse_files[config.name].document.data
    ingest = [{**each, "datasets": [dataset]} for each in warehouse["ingest"] if dataset in each["datasets"]]
    return {
        "warehouse": {**warehouse, "ingest": ingest},
        "environment": {"name": environment.name, "runtime": environment.runtime, **taken},
    }


def _schema(config: WarehouseConfig, ingest: Ingest) -> str:
    return ingest.table_schema or config.table_schema


def _where(project: Project, environment: Environment, *keys: str) -> str:
    return project.environment_files[environment.name].where(*keys)


def _resources(project: Project, environment: Environment, name: str | None) -> Resources:
    classes = environment.resource_classes
    chosen = name or environment.defaults.resources
    if chosen not in classes:
        where = _where(project, environment, *(("resources",) if name else ("defaults", "resources")))
        raise UnknownName.of("class of resources", chosen, classes, where=where)
    return classes[chosen]


def _principal(reader: str | None, connection: Mapping[str, Any]) -> str | None:
    return reader or (connection.get("principal") if connection.get("gssapi") else None)


def _release(
    project: Project, environment: Environment, bronze: LoadedBronze, warehouse: str, version: str | None
) -> tuple[str, str | None]:
    """Return the version and the image."""
    name, own = bronze.manifest.name, bronze.manifest.version
    file = project.environment_files[environment.name].path
    found = _lock(project, environment.name)
    lock = found or Lock(environment=environment.name)
    pins = {where: pins[name] for where, pins in lock.warehouses.items() if name in pins}
    pin = _pin(pins, warehouse, version)
    known = {own, *(each.version for each in pins.values())}
    if version is not None and version not in known:
        unknown = UnknownName.of(f"version of {name} called", version, known, where=str(lock_path(file)))
        unknown.fix = f"{unknown.fix}; or pin it: datakit lock {environment.name} {name}@{version.removeprefix('v')}"
        raise unknown
    chosen = version or (pin.version if pin else own)
    if environment.runtime == "process":
        return chosen, None
    if environment.registry is None:
        raise ConfigurationError(
            f"environment {environment.name!r} has no registry to take images from",
            subject=_where(project, environment, "runtime"),
            fix="add registry: HOST/PATH, or use runtime: process",
        )
    image = f"{environment.registry}/datakits/{name}"
    if pin is not None:
        # by digest alone: with a tag too, Docker would ask the registry at every run
        return chosen, f"{image}@{pin.digest}"
    if environment.frozen:
        raise ConfigurationError(
            f"environment {environment.name!r} is frozen, and nothing pins a digest of {name} {chosen} "
            f"for warehouse {warehouse!r}",
            subject=str(lock_path(file)),
            cause="it was not released to this environment yet" if found else "there is no lock",
            fix=f"datakit promote ENVIRONMENT {environment.name} --only {warehouse}/{name}, from the one where it runs",
        )
    return chosen, f"{image}:v{chosen}"


@lru_cache(maxsize=32)  # a tree's file is read once, and a DAG may have a thousand tasks
def _lock(project: Project, environment: str) -> Lock | None:
    return read_lock(project.environment_files[environment].path)


def _pin(pins: Mapping[str, Pin], warehouse: str, version: str | None) -> Pin | None:
    """Return the warehouse's pin; of another version that is asked for, the one of a warehouse that has it."""
    pin = pins.get(warehouse)
    if version is None or (pin and pin.version == version):
        return pin
    return next((other for other in pins.values() if other.version == version), None)


def _substituted(
    project: Project, environment: Environment, given: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Return labels and pod template with every ``${NAME}`` replaced."""
    declared = environment.variables
    for name in given:
        if name not in declared:
            raise UnknownName.of("variable", name, declared, where=_where(project, environment, "variables"))
    values = {**declared, **given}
    template, template_name = _pod_template(project, environment.name)
    used = set(_names_in(environment.labels)) | set(_names_in(template))
    for name in sorted(used - set(declared)):
        where = _where(project, environment, "variables")
        raise UnknownName.of("variable", name, declared, where=f"{where} (used by labels or {template_name})")
    for name in sorted(set(declared) - used):
        raise ConfigurationError(
            f"the variable {name!r} is used nowhere",
            subject=_where(project, environment, "variables", name),
            cause="what used it was removed, or spells it otherwise",
            fix=f"write ${{{name}}} into a label or the pod template, or remove the variable",
        )
    for name, value in values.items():
        if value is None:
            raise ConfigurationError(
                f"the variable {name!r} has no value, neither here nor from the task",
                subject=_where(project, environment, "variables", name),
                fix=f"give the task variables={{{name!r}: …}}, or the variable a value",
            )
    labels = {key: _replace(text, values) for key, text in environment.labels.items()}
    return labels, _replace(template, values)


@lru_cache(maxsize=32)
def _pod_template(project: Project, environment: str) -> tuple[dict[str, Any] | None, str]:
    found = project.environment_files[environment]
    name = found.model.kubernetes.pod_template
    if name is None or found.model.runtime != "kubernetes":
        return None, "a pod template"
    path = found.path.parent / name
    return read_pod_template(path), path.name


def _names_in(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield from _VARIABLE.findall(value)
        case dict():
            for item in value.values():
                yield from _names_in(item)
        case list():
            for item in value:
                yield from _names_in(item)


def _replace(value: Any, values: Mapping[str, str | None]) -> Any:
    match value:
        case str():
            return _VARIABLE.sub(lambda match: str(values[match[1]]), value)
        case dict():
            return {key: _replace(item, values) for key, item in value.items()}
        case list():
            return [_replace(item, values) for item in value]
        case _:
            return value

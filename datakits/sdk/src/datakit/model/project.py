"""A tree of datakits, warehouses and environments, found on disk and read when asked.

::

    ROOT/datakits/NAME/datakit.yaml                a source or bronze datakit
                       contracts/DATASET.yaml      the contracts of a source datakit
         warehouses/NAME/warehouse.yaml
         warehouses/environments/NAME.yaml
                                 NAME.lock.yaml

A datakit's or a warehouse's folder alone is a tree too, with its environments in ``environments/``. The folder named
by ``DATAKIT_ENVIRONMENTS`` adds environments to any tree, and wins over one of the same name. Each file is read once.
A broken one hinders only those who ask for what is in it; :attr:`Project.broken` lists them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from datakit.errors import ConfigurationError, InvalidFile, UnknownName
from datakit.model._found import ContractFiles, Found, LoadedBronze, LoadedSource, read_datakit, read_file
from datakit.model.contract import Contract
from datakit.model.environment import Environment, SourceSystem
from datakit.model.manifest import BronzeDatakit, Dataset, SourceDatakit
from datakit.model.warehouse import Ingest, WarehouseConfig

__all__ = ["Found", "LoadedBronze", "LoadedSource", "Project"]

_T = TypeVar("_T")

_NEAR: Final = 0.8
"""How alike two names of connections are that one may be meant by the other: ``lake-db`` is not ``marketing-db``."""


class Project:
    """A tree: what is in it, by name. Reads nothing until asked; see the module for its layout.

    :ivar root: the folder of the tree, absolute.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Find the tree: ``start`` and the folders above it; without it DATAKIT_HOME, else the working directory.

        A datakit's folder alone is a tree only if it is not inside one.

        :raises ConfigurationError: there is no tree; says where it looked.
        """
        home = os.environ.get("DATAKIT_HOME")
        if start is None and home:
            root = Path(home)
            if not (_is_tree(root) or _is_alone(root)):
                raise ConfigurationError(
                    "DATAKIT_HOME names a folder without datakits or warehouses",
                    subject=home,
                    fix="set it to the folder that holds datakits/ and warehouses/, or unset it",
                )
            return cls(root)
        begin = (start or Path.cwd()).resolve()
        alone: Path | None = None
        for folder in (begin, *begin.parents):
            if _is_tree(folder) and (alone is None or alone.parent in (folder / "datakits", folder / "warehouses")):
                return cls(folder)
            if alone is None and _is_alone(folder):
                alone = folder
        if alone is not None:
            return cls(alone)
        raise ConfigurationError(
            "there is no datakit or warehouse here",
            subject=str(begin),
            cause="neither this folder nor one above it holds datakits/, warehouses/ or a datakit.yaml",
            fix="change into the tree, set DATAKIT_HOME to it, or begin one: datakit new source NAME",
        )

    # What is in the tree

    def sources(self) -> Mapping[str, LoadedSource]:
        """Return the source datakits by name."""
        return self._sources

    def bronzes(self) -> Mapping[str, LoadedBronze]:
        """Return the bronze datakits by name."""
        return self._bronzes

    def warehouses(self) -> Mapping[str, WarehouseConfig]:
        """Return the warehouses by name."""
        return {name: found.model for name, found in self.warehouse_files.items()}

    def warehouses_in(self, environment: Environment) -> Mapping[str, WarehouseConfig]:
        """Return by name the warehouses that an environment has: those whose connection it knows."""
        return {name: each for name, each in self.warehouses().items() if each.connection in environment.warehouses}

    def environments(self) -> Mapping[str, Environment]:
        """Return the environments by name."""
        return {name: found.model for name, found in self.environment_files.items()}

    @cached_property
    def datakit_files(self) -> Mapping[str, Found[SourceDatakit] | Found[BronzeDatakit]]:
        """Every readable ``datakit.yaml`` by the datakit's name; of two with one name, the first by folder."""
        return self._read("datakit", _files(self.root, "datakits", "datakit.yaml"), read_datakit)

    @cached_property
    def warehouse_files(self) -> Mapping[str, Found[WarehouseConfig]]:
        """Every readable ``warehouse.yaml`` by the warehouse's name."""
        paths = _files(self.root, "warehouses", "warehouse.yaml")
        return self._read("warehouse", paths, lambda path: read_file(path, WarehouseConfig))

    @cached_property
    def environment_files(self) -> Mapping[str, Found[Environment]]:
        """Every readable environment by name; the folder of DATAKIT_ENVIRONMENTS wins over the tree."""
        paths = [path for folder in self.environment_folders for path in sorted(folder.glob("*.yaml"))]
        paths = [path for path in paths if not path.name.endswith(".lock.yaml")]
        seen: dict[str, Path] = {}
        for path in paths:
            seen.setdefault(path.stem, path)
        return self._read("environment", list(seen.values()), lambda path: read_file(path, Environment))

    @property
    def environment_folders(self) -> tuple[Path, ...]:
        """The folders in which environments are looked for, the winning one first."""
        extra = os.environ.get("DATAKIT_ENVIRONMENTS")
        own = self.root / ("warehouses/environments" if _is_tree(self.root) else "environments")
        return (Path(extra), own) if extra else (own,)

    @property
    def is_alone(self) -> bool:
        """Whether this is one datakit's or one warehouse's folder, so that others that it names may be elsewhere."""
        return not _is_tree(self.root)

    @property
    def broken(self) -> tuple[InvalidFile, ...]:
        """The errors of every file that cannot be read, and of names that are there twice."""
        _ = self.datakit_files, self.warehouse_files, self.environment_files
        return tuple(error for kind in ("datakit", "warehouse", "environment") for error in self._broken[kind])

    # What has a name

    def environment(self, name: str | None = None) -> Environment:
        """Return the environment of that name; None takes the one that DATAKIT_ENVIRONMENT names.

        :raises ConfigurationError: neither is given; nothing is guessed.
        :raises UnknownName: there is none of that name.
        """
        return self._environment_file(name).model

    def warehouse(self, name: str) -> WarehouseConfig:
        """Return the warehouse of that name.

        :raises UnknownName: there is none.
        """
        return self._get("warehouse", name, self.warehouse_files).model

    def bronze(self, name: str) -> LoadedBronze:
        """Return the bronze datakit of that name.

        :raises UnknownName: there is none.
        """
        if name in self._sources and name not in self._bronzes:
            including = sorted(bronze for bronze, each in self._bronzes.items() if self._sources[name] in each.sources)
            raise UnknownName(
                f"{name!r} is a source datakit, which lands nowhere by itself",
                subject=self.datakit_files[name].where("kind"),
                fix=f"name a bronze datakit that includes it: {', '.join(including) or 'there is none yet'}",
            )
        return self._get("datakit", name, self._bronzes, "bronze datakit")

    def dataset(self, reference: str) -> tuple[LoadedSource, str, Dataset, Contract | None]:
        """Return the source datakit, name, definition and contract of ``CONNECTION.DATASET``.

        The contract is None if it was never pulled.

        :raises UnknownName: there is no such dataset.
        :raises InvalidFile: its contract cannot be read.
        """
        source, name = self._dataset(reference)
        return source, name, source.manifest.datasets[name], source.contracts.get(name)

    def dataset_source(self, reference: str) -> LoadedSource:
        """Return the source datakit that defines ``CONNECTION.DATASET``, without reading the contract.

        :raises UnknownName: there is no such dataset.
        """
        return self._dataset(reference)[0]

    def datasets(self) -> tuple[str, ...]:
        """Return the references of every dataset in the tree, ``CONNECTION.DATASET``, sorted."""
        return tuple(sorted(self._datasets))

    def ingest(self, warehouse: str, reference: str) -> tuple[WarehouseConfig, Ingest, LoadedBronze, LoadedSource]:
        """Return everything that says how a dataset lands in a warehouse.

        :raises UnknownName: there is no such warehouse, dataset or datakit, or the warehouse does not take the dataset.
        :raises InvalidFile: the warehouse takes it twice, or through a bronze datakit that does not include its source.
        """
        config = self.warehouse(warehouse)
        places = [number for number, ingest in enumerate(config.ingest) if reference in ingest.datasets]
        if len(places) != 1:
            where = self.warehouse_files[warehouse].where("ingest")
        if not places and reference in self._datasets:
            raise UnknownName(
                f"warehouse {warehouse!r} does not take {reference}",
                subject=where,
                cause="the dataset is there, and stands under ingest of other warehouses only, or of none",
                fix="add it to datasets in an entry of ingest",
            )
        if not places:
            taken = {dataset for ingest in config.ingest for dataset in ingest.datasets}
            raise UnknownName.of(f"dataset in warehouse {warehouse!r} called", reference, taken, where=where)
        if len(places) > 1:
            raise InvalidFile(
                f"warehouse {warehouse!r} takes {reference!r} in {len(places)} entries of ingest",
                subject=where,
                fix="keep one of them; a second table of the same rows is a view of the first",
            )
        ingest = config.ingest[places[0]]
        bronze = self.bronze(ingest.datakit)
        source = self.dataset_source(reference)
        if all(included is not source for included in bronze.sources):
            included = ", ".join(item.datakit for item in bronze.manifest.sources)
            raise InvalidFile(
                f"bronze datakit {ingest.datakit!r} does not include {source.manifest.name!r}, "
                f"which defines {reference!r}; it includes {included}",
                subject=self.warehouse_files[warehouse].where("ingest", places[0], "datakit"),
                fix=f"add it to sources in {bronze.folder / 'datakit.yaml'}",
            )
        return config, ingest, bronze, source

    def source_system(self, environment: Environment, source: LoadedSource) -> tuple[SourceSystem, str]:
        """Return where the environment says that source system is, and the file and line that say so.

        :raises UnknownName: the environment has no such connection.
        """
        return self._connection(environment, "sources", source.manifest.connection, environment.sources)

    def warehouse_connection(self, environment: Environment, config: WarehouseConfig) -> tuple[Mapping[str, Any], str]:
        """Return the environment's section for that warehouse, and the file and line of it.

        :raises UnknownName: the environment has no such connection.
        """
        return self._connection(environment, "warehouses", config.connection, environment.warehouses)

    # How it is read

    @cached_property
    def _broken(self) -> dict[str, list[InvalidFile]]:
        return {"datakit": [], "warehouse": [], "environment": []}

    @cached_property
    def _sources(self) -> Mapping[str, LoadedSource]:
        return MappingProxyType(
            {
                name: LoadedSource(found.model, found.path.parent, ContractFiles(found.path.parent / "contracts"))
                for name, found in self.datakit_files.items()
                if isinstance(found.model, SourceDatakit)
            }
        )

    @cached_property
    def _bronzes(self) -> Mapping[str, LoadedBronze]:
        bronzes: dict[str, LoadedBronze] = {}
        for name, found in self.datakit_files.items():
            if isinstance(found.model, BronzeDatakit):
                included = (item.datakit for item in found.model.sources)
                sources = tuple(self._sources[item] for item in included if item in self._sources)
                bronzes[name] = LoadedBronze(found.model, found.path.parent, sources)
        return MappingProxyType(bronzes)

    @cached_property
    def _datasets(self) -> Mapping[str, tuple[LoadedSource, str]]:
        datasets: dict[str, tuple[LoadedSource, str]] = {}
        for source in self._sources.values():
            for name in source.manifest.datasets:
                datasets.setdefault(f"{source.manifest.connection}.{name}", (source, name))
        return MappingProxyType(datasets)

    def _read(self, kind: str, paths: list[Path], read: Callable[[Path], Any]) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for path in paths:
            try:
                item = read(path)
            except InvalidFile as error:
                self._broken[kind].append(error)
                continue
            if (name := item.model.name) in found:
                self._broken[kind].append(
                    InvalidFile(
                        f"the {kind} {name!r} is there twice",
                        subject=item.where("name"),
                        cause=f"the other one is {found[name].path}",
                        fix="give one of them another name",
                    )
                )
            else:
                found[name] = item
        return MappingProxyType(found)

    def _dataset(self, reference: str) -> tuple[LoadedSource, str]:
        return self._get("datakit", reference, self._datasets, "dataset")

    def _get(self, kind: str, name: str, known: Mapping[str, _T], called: str | None = None) -> _T:
        if name in known:
            return known[name]
        if self._broken[kind]:  # what is asked for may well be in it
            raise self._broken[kind][0]
        raise UnknownName.of(called or kind, name, known, where=str(self.root))

    def _environment_file(self, name: str | None) -> Found[Environment]:
        name = name or os.environ.get("DATAKIT_ENVIRONMENT")
        if not name:
            known = ", ".join(sorted(self.environment_files)) or "none"
            folders = " and ".join(str(folder) for folder in self.environment_folders)
            raise ConfigurationError(
                "no environment is chosen",
                subject=str(self.root),
                cause=f"neither --environment nor DATAKIT_ENVIRONMENT is set; environments in {folders}: {known}",
                fix="choose one: --environment NAME, or export DATAKIT_ENVIRONMENT=NAME",
            )
        return self._get("environment", name, self.environment_files)

    def _connection(self, environment: Environment, section: str, name: str, known: Mapping[str, _T]) -> tuple[_T, str]:
        found = self.environment_files.get(environment.name)
        if name not in known:
            where = found.where(section) if found else environment.name
            near = get_close_matches(name, known, n=1, cutoff=_NEAR)
            raise UnknownName(
                f"there is no connection under {section} in environment {environment.name!r} called {name!r}",
                subject=where,
                cause=f"did you mean {near[0]!r}?" if near else None,
                fix=f"add {name} under {section}: in {found.path if found else 'that environment'}",
            )
        return known[name], found.where(section, name) if found else f"{environment.name}: {section}.{name}"


def _files(root: Path, folder: str, name: str) -> list[Path]:
    lone = root / name
    return [*([lone] if lone.is_file() else []), *sorted(root.glob(f"{folder}/*/{name}"))]


def _is_tree(folder: Path) -> bool:
    return bool(
        next(folder.glob("datakits/*/datakit.yaml"), None)
        or next(folder.glob("warehouses/*/warehouse.yaml"), None)
        or next(folder.glob("warehouses/environments/*.yaml"), None)
    )


def _is_alone(folder: Path) -> bool:
    return (folder / "datakit.yaml").is_file() or (folder / "warehouse.yaml").is_file()
